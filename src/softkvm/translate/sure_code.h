// SPDX-License-Identifier: Apache-2.0
// What one vCPU is sure of, in a VM whose memory host code writes without a notice (softkvm.h, expect_unseen_writes): which 64-byte pieces of which pages
// were seen to hold what their blocks were made from since it last had reason to doubt that. Its jump entries that are in use (Engine::jump_sure), and all that
// blocks it has come to reach by linked jumps (CodeCache::reach()), are of such pieces only.
// FAST. For the vCPU's own thread.
#pragma once

#include <cstdint>

#include "softkvm/translate/block.h"

namespace vireo::softkvm {

struct JumpSource;
struct VcpuState;

class SureCode {
 public:
  // `pieces` of the page are as they were: now, and they are to be looked at when all is doubted.
  void add(PageSource& source, uint64_t pieces) {
    uint64_t& known = pieces_[source.number];
    if (!(pieces & ~known)) return;
    if (!known) {
      if (count_ == kMostPages) {
        lost_ = true;
        return;
      }
      pages_[count_++] = {&source, source.number};
    }
    known |= pieces;
  }
  uint64_t missing(uint32_t page_number, uint64_t wanted) const { return wanted & ~pieces_[page_number]; }

  // A doubt of all can be settled at once, by comparing all that was sure, or by being sure of nothing, so that each page is compared when a jump next leads
  // there. Settling is for code that runs again and again: where most of what ran between one doubt and the next runs between the next two as well. How many
  // doubts in a row are settled doubles with each time that this is seen, up to 2^kMostTrust - 1.
  bool to_be_settled(uint64_t links_by_others);
  // The first half of that: what was sure is so still.
  bool all_as_it_was(VcpuState& vcpu);
  // It is not, or is not asked.
  void clear();

  void has_linked(uint64_t links) { own_links_ += links; }
  uint64_t own_links() const { return own_links_; }  // of CodeCache::links_made()

 private:
  static constexpr uint32_t kMostPages = 4096;
  static constexpr unsigned kMostTrust = 4;  // 15 in a row
  struct Page {
    PageSource* source;
    uint32_t number;  // its own: the source may be gone when all is cleared
  };

  uint32_t count_ = 0;
  bool lost_ = false;   // not all pages are in pages_
  bool measured_ = false;  // else nothing was sure after the last doubt: count_ is what one stretch between two has used
  unsigned trust_ = 0, left_ = 0;
  uint32_t stretch_ = 0, before_ = 0;  // pages that were used in one stretch, and before the one that count_ is of
  uint64_t own_links_ = 0, links_by_others_ = 0;
  Page pages_[kMostPages];
  uint64_t pieces_[kMostCodePages];  // by PageSource::number
};

// Does what the block is made from and can reach still hold what it was made from, as far as this vCPU has not seen since its last doubt that it does?
// `fresh`: what it has seen does not count, and none of the pages' blocks may be of anything else.
bool code_current(VcpuState& vcpu, const Block& block, bool fresh);
bool code_current(VcpuState& vcpu, const JumpSource& from);
// The block was made just now, or its page compared as a whole.
void code_is_current(VcpuState& vcpu, const Block& block);

}  // namespace vireo::softkvm
