// SPDX-License-Identifier: Apache-2.0
// The VM's translated code: one bounded region, mapped twice (writable, executable; never both through one mapping), filled from the
// front and dropped whole when full; links between blocks, and their invalidation by guest physical range.
// Everything but table() and the fast lookups needs `mutex`.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "softkvm/translate/block.h"
#include "softkvm/translate/translator.h"

namespace vireo::softkvm {

class Vm;

class CodeCache {
 public:
  static CodeCache* create(size_t bytes);
  ~CodeCache();

  const BlockTable& table() const { return *table_; }
  const uint8_t* executable(uint32_t offset) const { return executable_ + offset; }
  bool contains(const void* pc) const {
    return static_cast<size_t>(static_cast<const uint8_t*>(pc) - executable_) < size_;
  }
  uint32_t offset_of(const void* pc) const { return static_cast<uint32_t>(static_cast<const uint8_t*>(pc) - executable_); }

  // Room for one block being born: `room` bytes at the front, writable; null when the cache has to be flushed first.
  uint8_t* begin(size_t room, uint32_t& offset);
  // Takes the block in: `used` bytes of the room. From here on it can run, so the verifier stands in front.
  Block* finish(const Block& block, size_t used, const std::vector<SideEntry>& side, const std::vector<LinkSite>& sites);

  // Patches the jump whose rel32 is at `site` to `target`, if both are of the same page and mode: the guest may have changed its page
  // tables since the jump asked.
  void link(uint32_t site, Block& target);

  // What the page of `gpa` was translated from, made where it is not there. For VMs with unseen writes.
  PageSource* source(uint64_t gpa);

  // Calls f(page) for each guest page that has blocks.
  template <class F>
  void each_page(F f) const {
    for (const auto& [page, block] : pages_) f(page << 12);
  }

  // Drops all blocks that depend on a byte of [gpa, gpa+size) and gives the page's new chunk map.
  uint64_t invalidate_page(uint64_t gpa, unsigned size);
  void drop(Block& block) { forget(block); }
  bool full(size_t room) const { return used_ + room + 64 > size_; }
  void invalidate_all();  // unlinks everything; memory stays until reset()
  void reset();           // no vCPU may be in translated code

  // The block whose code has `offset`, or null.
  const Block* containing(uint32_t offset) const;
  size_t used() const { return used_; }
  uint64_t generation() const { return generation_; }

  // What the verifier has passed; zeros where it is not built in.
  struct Verified {
    uint64_t blocks = 0, instructions = 0, links = 0;
  };
  const Verified& verified() const { return verified_; }

  std::mutex mutex;

 private:
  CodeCache() = default;
  void verify(const Block& block, size_t used, const std::vector<SideEntry>& side, const std::vector<LinkSite>& sites);
  void patch(uint32_t at, const Block* target, uint32_t destination);
  void unlink_incoming(Block& block);
  static const LinkSite* site_of(const Block* from, uint32_t at);
  void forget(Block& block);
  void turn_away(const Block& block);
  void enter(Block& block, uint64_t page);

  uint8_t *executable_ = nullptr, *writable_ = nullptr;
  size_t size_ = 0, used_ = 0;
  uint64_t generation_ = 0;
  BlockTable* table_ = nullptr;
  Verified verified_;
  std::deque<Block> blocks_;  // in order of their code
  std::deque<Link> links_;
  std::deque<std::vector<SideEntry>> sides_;
  static constexpr uint32_t kRewritesBeforeFine = 16;
  std::unordered_map<uint64_t, uint32_t> rewrites_;  // page number to how often its code was overwritten
  std::unordered_map<uint64_t, std::unique_ptr<PageSource>> sources_;  // by page number; they live as long as the blocks' memory
  std::unordered_map<uint64_t, Block*> pages_;       // page number to its first block
  std::deque<std::vector<LinkSite>> sites_;
};

}  // namespace vireo::softkvm
