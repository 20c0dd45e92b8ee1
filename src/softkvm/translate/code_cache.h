// SPDX-License-Identifier: Apache-2.0
// The VM's translated code: one bounded region, mapped twice (writable, executable; never both through one mapping), filled from the
// front and dropped whole when full; links between blocks, and their invalidation by guest physical range.
// Everything but table() and the fast lookups needs `mutex`. FAST but where told (code_cache_memory.cpp): all memory is mapped beforehand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "softkvm/counters.h"
#include "softkvm/translate/block.h"
#include "softkvm/translate/code_lock.h"
#include "softkvm/translate/page_sources.h"
#include "softkvm/translate/translator.h"

namespace vireo::softkvm {

class Vm;

class PageWorker;

class CodeCache {
 public:
  // Not FAST.
  static CodeCache* create(size_t bytes, VmCounters& counters);
  ~CodeCache();

  const BlockTable& table() const { return *table_; }
  const uint8_t* executable(uint32_t offset) const { return executable_ + offset; }
  uint32_t number_of(const Block& block) const { return static_cast<uint32_t>(&block - blocks_); }
  // The 64-byte pieces of its (first) page that a block was made from (not what lies in between), and that what its linked jumps come to was made from; or more.
  // By number, since a doubt asks it of many blocks.
  uint64_t reach(uint32_t block) const { return reaches_[block].load(std::memory_order_acquire); }
  uint64_t reach(const Block& block) const { return reach(number_of(block)); }
  bool contains(const void* pc) const {
    return static_cast<size_t>(static_cast<const uint8_t*>(pc) - executable_) < size_;
  }
  uint32_t offset_of(const void* pc) const { return static_cast<uint32_t>(static_cast<const uint8_t*>(pc) - executable_); }

  // Room for one block being born: kBlockRoom bytes at the front, writable; null when the cache has to be flushed first.
  uint8_t* begin(uint32_t& offset);
  // Takes the block in: `used` bytes of the room. From here on it can run, so the verifier stands in front. `looked_at`: the 64-byte pieces of
  // its (first) page that it may depend on.
  Block* finish(const Block& block, size_t used, std::span<const SideEntry> side, std::span<const LinkSite> sites, uint64_t looked_at);

  // Patches the jump whose rel32 is at `site` to `target`, if both are of the same page and mode: the guest may have changed its page
  // tables since the jump asked. `page`, where not null: what the page holds; a target that was made from anything else gets no jump.
  void link(uint32_t site, Block& target, const uint8_t* page);
  // The same of each of a block's jumps to a block that is there.
  void link_all(Block& from, const uint8_t* page);
  // How many jumps were patched to a block.
  uint64_t links_made() const { return links_made_.load(); }

  // How often blocks of the page were dropped since something in it was overwritten.
  unsigned rewrites(uint64_t gpa) const;
  // What the page of `gpa` was translated from, or null. For VMs with unseen writes.
  PageSource* source(uint64_t gpa) const;
  PageSource* make_source(uint64_t gpa);  // not FAST; null: no room, the cache has to be flushed

  // Calls f(page) for each guest page that has blocks.
  template <class F>
  void each_page(F f) const {
    for (uint32_t i = 0; i < page_count_; i++)
      if (const Page& page = pages_[page_order_[i]]; page.first) f(page.name - 1);
  }

  // Drops all blocks that depend on a byte of [gpa, gpa+size) and gives the page's new chunk map.
  uint64_t invalidate_page(uint64_t gpa, unsigned size);
  void drop(Block& block) { forget(block); }
  bool full() const;
  void invalidate_all();  // unlinks everything; memory stays until reset().
  void reset();           // no vCPU may be in translated code. Not FAST.

  // The jump that is not linked by the stub at a cache offset, which the caller has just come from. Without the lock.
  const LinkSite& site_of_stub(uint32_t stub) const;

  // The block whose code has `offset`, or null.
  Block* containing(uint32_t offset) const;
  size_t used() const { return used_; }
  uint64_t generation() const { return generation_; }

  // What the verifier has passed; zeros where it is not built in.
  struct Verified {
    uint64_t blocks = 0, instructions = 0, links = 0;
  };
  const Verified& verified() const { return verified_; }

  bool named = false;        // blocks are told to code_names.h
  bool whole_pages = false;  // a write to any byte of a page of code drops all its blocks
  PageWorker* worker = nullptr;  // gets pages ahead of need, where there is one
  bool small_pages = false;  // of the host: it gives no large ones, or is not asked
  CodeLock mutex;
  // vCPUs that wait for others to have no write tags for a page any more: until that is over nobody may take a page without known
  // writers for one without writers.
  std::atomic<unsigned> watching{0};

 private:
  // A guest page that has or had code.
  struct Page {
    uint64_t name;  // gpa + 1; 0: free
    Block* first;
    PageSource* source;
    uint32_t rewrites;  // how often its code was overwritten
  };
  static constexpr uint32_t kPages = kCodePageTable, kMostPages = kMostCodePages;
  static constexpr uint32_t kRewritesBeforeFine = 16;

  explicit CodeCache(VmCounters& counters) : counters_(counters) {}
  // Where VIREO_VERIFY_BLOCKS is on. Not FAST.
  void verify(const Block& block, size_t used, std::span<const SideEntry> side, std::span<const LinkSite> sites);
  void verify_patch(uint32_t at, const Block* target, uint32_t destination);
  // How far pages for an array have been got.
  struct Ahead {
    size_t populated = 0;            // bytes from its start
    const uint8_t* asked = nullptr;  // the last area that the worker was asked for
  };
  // Calls f(Ahead&, array, bytes in use, bytes in all) for blocks_, reaches_, sides_, links_, starts_ and nodes_.
  template <class F>
  void each_array(F f);
  void populate();
  bool populate_code();
  void populate_arrays();
  void ask_ahead();
  void patch(uint32_t at, const Block* target, uint32_t destination);
  static uint32_t mode_of(const Block& from, const LinkSite& site);  // of the jump's target
  void enter(Block& from, Link& link, Block& target, const uint8_t* page);
  void reach_more(Block& block, uint64_t pieces);
  void unlink_incoming(Block& block);
  static Link* link_of(const Block* from, uint32_t at);
  void forget(Block& block);
  void turn_away(const Block& block);
  Page* find_page(uint64_t gpa) const;
  Page* make_page(uint64_t gpa);
  void enter(Block& block, uint64_t gpa);

  uint8_t *executable_ = nullptr, *writable_ = nullptr;
  size_t size_ = 0, used_ = 0, populated_ = 0;
  uint64_t generation_ = 0;
  std::atomic<uint64_t> links_made_{0};
  BlockTable* table_ = nullptr;
  Verified verified_;
  // Arrays mapped for a cache full of small blocks; untouched they take no memory.
  Block* blocks_ = nullptr;     // in order of their code
  std::atomic<uint64_t>* reaches_ = nullptr;  // reach() of each
  SideEntry* sides_ = nullptr;
  Link* links_ = nullptr;
  BlockTable::Node* nodes_ = nullptr;  // table_'s, one for each block
  uint32_t* starts_ = nullptr;  // by cache offset / 64: one more than the number of the block that starts there, or 0
  VmCounters& counters_;
  size_t asked_code_ = 0;  // the last area of the code that the worker was asked for
  Ahead ahead_[6];
  size_t block_count_ = 0, side_count_ = 0, link_count_ = 0;
  size_t block_room_ = 0, side_room_ = 0, link_room_ = 0;
  Page* pages_ = nullptr;       // by hash of their address, with linear probing
  uint32_t* page_order_ = nullptr;  // their places, in the order in which they came
  uint32_t page_count_ = 0;
  size_t dropped_ = 0;  // the blocks before this one have been invalidated by invalidate_all()
  PageSources sources_;  // they live as long as the blocks' memory
};

}  // namespace vireo::softkvm
