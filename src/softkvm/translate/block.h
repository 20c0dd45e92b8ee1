// SPDX-License-Identifier: Apache-2.0
// A translated block and the table that finds it by guest physical address and mode. Lookups are lock-free and may run beside changes;
// changes hold CodeCache::mutex. A block's memory is reused only after every vCPU has passed a safe point (CodeCache::flush).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "softkvm/cpu/insn.h"

namespace vireo::softkvm {

// Where a jump that is linked has the status flags. Where a block needs them it is written for one of the first two, and the other's entry
// converts; kBoth also stands for flags that the target does not need.
enum class FlagsIn : uint8_t { kHost = 0, kSlot = 1, kBoth = 2 };

// As a translator leaves it: a direct jump inside a page that can be patched to go straight to its target.
struct LinkSite {
  uint32_t at;        // cache offset of the rel32
  uint32_t unlinked;  // cache offset of the stub it jumps to when not linked: a call of STUB_LINK or STUB_LINK_SLOT, which nothing follows
  FlagsIn flags;
  bool ungrouped;   // its target is of kModeUngrouped, else not
  uint16_t target;  // page offset
};

constexpr unsigned kLinkStubSize = 8;

// A bit for each 64-byte piece of a page, from that of one byte to that of another.
constexpr uint64_t chunks_between(unsigned first_byte, unsigned last_byte) { return ~0ull >> (63 - (last_byte / 64 - first_byte / 64)) << first_byte / 64; }

struct Block;

// The same of a block in the cache. Its target is always the same place in the same mode, so a jump is linked to one block at a time.
struct Link {
  LinkSite site;
  Block* target;  // null: not linked
  Link* next;     // of the same target
};

// Maps host code back to the guest instruction, for host exceptions.
struct SideEntry {
  uint32_t host;         // cache offset where the instruction's own bytes start ...
  uint16_t guest;        // ... and its page offset
  uint8_t host_flags;    // status flags are in the host's register there, else in the slot
  uint8_t borrowed;      // bit n: borrow slot n holds the guest's value of borrow_reg[n]
  uint8_t borrow_reg[4];
};

// Guest pages of which there is code, at most.
constexpr uint32_t kCodePageTable = 1u << 18, kMostCodePages = kCodePageTable / 4 * 3;  // 768 MiB

// For VMs whose memory host code writes without a notice (softkvm.h, expect_unseen_writes): what a page's blocks were translated from. Whoever
// enters the page through the run loop compares, if a write may have become known to the guest since that was done last.
struct PageSource {
  std::atomic<uint64_t> chunks;   // which 64-byte pieces of `bytes` are known
  std::atomic<uint64_t> used;     // ... and which of them the page's blocks depend on
  uint64_t gpa;                   // of the page
  uint32_t number;                // of all that the code cache has, from 0; below kMostCodePages
  alignas(64) uint8_t bytes[4096];

  // In what of `wanted` is known.
  bool same(const uint8_t* page, uint64_t wanted = ~0ull) const {
    for (uint64_t bits = chunks.load(std::memory_order_acquire) & wanted; bits; bits &= bits - 1) {
      const unsigned at = static_cast<unsigned>(__builtin_ctzll(bits)) * 64;
      const auto* a = reinterpret_cast<const uint64_t*>(bytes + at);
      const auto* b = reinterpret_cast<const volatile uint64_t*>(page + at);
      uint64_t differ = 0;
#pragma GCC unroll 8
      for (unsigned i = 0; i < 8; i++) differ |= a[i] ^ b[i];
      if (differ) return false;
    }
    return true;
  }
};

struct Block {
  uint64_t gpa;           // of the first byte
  uint32_t mode;
  uint32_t indirect_entry;           // cache offset: entered with a linear address, flags in the slot
  std::array<uint32_t, 3> linked_entry;  // cache offsets, by FlagsIn
  uint32_t code_end;
  uint16_t guest_begin, guest_end;  // page offsets of the bytes it depends on: its own, and those its flag liveness was read from
  uint16_t side_count, link_count;
  std::atomic<bool> valid;
  std::atomic<bool> looked_up;  // a lookup has found it
  uint8_t straddle;       // one instruction of this many bytes that reaches into another page, else 0
  uint64_t second_page;   // that page's guest physical address; it has to be the next one by linear address too
  SideEntry* side;
  Link* links;            // its own jumps
  Link* incoming;         // links patched to this block
  Block* page_next[2];    // in the list of its page, and in the second one's
  uint32_t stored;        // the record that it is from (StoredBlocks::number()), or 0
  uint32_t next_to_tell;  // CodeCache::reach_more()
  PageSource *source, *second_source;  // null where writes are told
};

// What a call-out gets: embedded in the block's code.
struct CalloutRecord {
  uint32_t page_offset;
  uint32_t what;  // Callout
  Insn insn;
};
enum class Callout : uint32_t { kSystem, kString, kSpecial, kUndefined, kNoDevice, kGeneralProtection };

// Pages of code mostly lie together, and so do they where they are looked for: a number for each, in which only the upper bits are mixed.
// Scattered, they would take a page of the host's each.
constexpr uint64_t gathered(uint64_t page) { return page + (page >> 14) * 0x9e3779b9u; }

// The buckets of a guest page lie together, so that a page's blocks are found in the same few lines of the host's caches. Untouched buckets take
// no memory. A bucket's blocks are chained by small nodes, which lie as the blocks were made: those of a page side by side, and most blocks that are
// not the one are passed by without being touched.
constexpr unsigned kHashBits = 20, kPageBucketBits = 6;
class BlockTable {
 public:
  struct Node {
    std::atomic<uint32_t> next;  // as in a bucket
    uint32_t name;               // of place and mode: others may have the same
  };

  // `nodes`: room for as many as there may be blocks in `blocks`.
  void init(Block* blocks, Node* nodes) { blocks_ = blocks, nodes_ = nodes; }

  Block* find(uint64_t gpa, uint32_t mode) const { return find_from(bucket_of(gpa, mode).load(std::memory_order_acquire), gpa, mode, [](const Block&) { return true; }); }
  // The one that goes on in `second_page`: whether an instruction straddles is seen in its first page, so `first` stands for all at the place.
  Block* find_straddle(const Block* first, uint64_t second_page) const {
    return find_from(number(*first), first->gpa, first->mode, [second_page](const Block& b) { return b.second_page == second_page; });
  }

  // Each for one thread at a time, beside others that find.
  void enter(Block& b) {
    Node& node = nodes_[&b - blocks_];
    auto& bucket = bucket_of(b.gpa, b.mode);
    node.name = name(b.gpa, b.mode);
    node.next.store(bucket.load(std::memory_order_relaxed), std::memory_order_relaxed);
    bucket.store(number(b), std::memory_order_release);
  }
  void remove(const Block& b) {
    auto* at = &bucket_of(b.gpa, b.mode);
    for (uint32_t i; (i = at->load(std::memory_order_relaxed)) != 0; at = &nodes_[i - 1].next)
      if (i == number(b)) return at->store(nodes_[i - 1].next.load(std::memory_order_relaxed), std::memory_order_release);
  }
  void empty_bucket_of(const Block& b) { bucket_of(b.gpa, b.mode).store(0, std::memory_order_release); }

 private:
  static unsigned hash(uint64_t gpa, uint32_t mode) {
    const uint64_t group = gathered(gpa >> 12) + (mode * 0x9e3779b9u >> 16);
    const uint64_t within = (gpa >> 4 ^ gpa >> 10) & ((1u << kPageBucketBits) - 1);
    return static_cast<unsigned>(group << kPageBucketBits | within) & ((1u << kHashBits) - 1);
  }
  static uint32_t name(uint64_t gpa, uint32_t mode) { return static_cast<uint32_t>(gpa ^ gpa >> 32) ^ mode * 0x9e3779b9u; }
  const std::atomic<uint32_t>& bucket_of(uint64_t gpa, uint32_t mode) const { return bucket_[hash(gpa, mode)]; }
  std::atomic<uint32_t>& bucket_of(uint64_t gpa, uint32_t mode) { return bucket_[hash(gpa, mode)]; }
  uint32_t number(const Block& b) const { return static_cast<uint32_t>(&b - blocks_) + 1; }

  template <class F>
  Block* find_from(uint32_t i, uint64_t gpa, uint32_t mode, F wanted) const {
    const uint32_t named = name(gpa, mode);
    for (; i; i = nodes_[i - 1].next.load(std::memory_order_acquire)) {
      if (nodes_[i - 1].name != named) continue;
      Block* b = &blocks_[i - 1];
      if (b->gpa == gpa && b->mode == mode && b->valid.load(std::memory_order_acquire) && wanted(*b)) return b;
    }
    return nullptr;
  }

  Block* blocks_ = nullptr;
  Node* nodes_ = nullptr;
  alignas(64) std::atomic<uint32_t> bucket_[1u << kHashBits];  // number of a bucket's last block, from 1; 0: none
};

}  // namespace vireo::softkvm
