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

// Where the code is and what it may look at.
struct Source {
  const uint8_t* page;      // a copy of the page's bytes, as far as kDependencyReach says
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

// What belongs to a block beside its code.
struct BlockNotes {
  std::array<SideEntry, kMostSides> side;
  std::array<LinkSite, kMostSites> sites;
  uint32_t side_count = 0, site_count = 0;

  std::span<const SideEntry> all_side() const { return {side.data(), side_count}; }
  std::span<const LinkSite> all_sites() const { return {sites.data(), site_count}; }
};

// FAST. Emits at `out` (which lies at cache offset `offset`) and fills `block` and `notes`. Gives the bytes used.
size_t translate(const Vcpu& vcpu, const Source& source, uint8_t* out, uint32_t offset, Block& block, BlockNotes& notes);

// Is the first instruction at `offset` cut by the page's end?
bool straddles(const uint8_t* page, unsigned offset, CodeMode mode);

}  // namespace vireo::softkvm
