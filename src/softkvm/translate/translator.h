// SPDX-License-Identifier: Apache-2.0
// Translation of one block: guest code bytes to host code in the cache. How it looks is told in docs/engine.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "softkvm/translate/block.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {

// The bytes of a guest page, copied piece by piece when they are asked for: others may be writing to it, and what was decoded has to be what is
// looked at again.
class PageCopy {
 public:
  explicit PageCopy(const uint8_t* host) : host_(host) {}
  // The bytes from `offset` on, of which up to 15 may be looked at, as far as the page goes.
  const uint8_t* at(unsigned offset) {
    const unsigned last = offset + 14 < 4096 ? offset + 14 : 4095;
    take(offset / 64);
    take(last / 64);
    return bytes_ + offset;
  }
  const uint8_t* bytes() const { return bytes_; }
  uint64_t taken() const { return have_; }  // which 64 bytes of it are there

 private:
  void take(unsigned chunk) {
    if (have_ >> chunk & 1) return;
    have_ |= 1ull << chunk;
    for (unsigned i = chunk * 64; i < chunk * 64 + 64; i += 8) __builtin_memcpy(bytes_ + i, host_ + i, 8);
  }
  const uint8_t* host_;
  uint64_t have_ = 0;  // bit n: bytes [64n, 64n+64)
  uint8_t bytes_[4096 + 16];  // the decoder loads eight bytes at a time
};

// Where the code is and what it may look at.
struct Source {
  PageCopy& page;           // of which nothing is asked that is farther from the block's start than kDependencyReach
  unsigned offset;          // of the first instruction
  uint64_t gpa;             // of the first byte
  const uint8_t* straddle;  // the first instruction's bytes (15) when it reaches into the next page, else null
  uint32_t mode;
  uint64_t second_page = 0;  // where the next page lies then
};

constexpr size_t kBlockRoom = 32768;       // no block is larger
constexpr unsigned kMaxBlockInsns = 24;    // guest instructions a block may have
constexpr unsigned kDependencyReach = 512; // how far from its start a block reads bytes, in both directions

constexpr unsigned kMostSides = kMaxBlockInsns * 8;  // VZEROALL outside of 64-bit mode has eight
constexpr unsigned kMostSites = kMaxBlockInsns * 2 + 2;

// Bytes of the page that a block's code is a function of.
struct LookedAt {
  uint16_t at, size;
};
constexpr unsigned kMostLooks = 80;

// What belongs to a block beside its code.
struct BlockNotes {
  std::array<SideEntry, kMostSides> side;
  std::array<LinkSite, kMostSites> sites;
  uint32_t side_count = 0, site_count = 0, instructions = 0;
  // The block's own bytes first; with an instruction that straddles those are Source::straddle's. For who keeps blocks beyond their VM (stored_blocks.h).
  std::array<LookedAt, kMostLooks> looks;
  uint32_t look_count = 0;  // kMostLooks + 1: there were more

  std::span<const SideEntry> all_side() const { return {side.data(), side_count}; }
  std::span<const LinkSite> all_sites() const { return {sites.data(), site_count}; }
};

// FAST. Emits at `out` (which lies at cache offset `offset`) and fills `block` and `notes`. Gives the bytes used.
size_t translate(const VcpuState& vcpu, const Source& source, uint8_t* out, uint32_t offset, Block& block, BlockNotes& notes);

// Is the first instruction at `offset` cut by the page's end?
bool straddles(PageCopy& page, unsigned offset, CodeMode mode);

}  // namespace vireo::softkvm
