// SPDX-License-Identifier: Apache-2.0
// For tests: how much random blocks have run and touched, by what the bare CPU did. Counts are of at least so many: what a jump may pass over is not
// counted, nor a loop's second turn, nor a repeated string instruction's.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <map>
#include <string>
#include <vector>

#include "softkvm/translate/random_block_state.h"

namespace vireo::softkvm {

class BlockCount {
 public:
  explicit BlockCount(const Vcpu& vcpu, CodeMode mode) : vcpu_(vcpu), mode_(mode) {}
  // A block of `size` bytes of code, what it started from and what it left behind.
  void add(const RandomBlock& block, size_t size, const BlockState& before, const BlockState& after);
  // What of the decoder's tables this CPU has and has not been executed.
  std::vector<std::string> never_executed() const;
  void print(std::ostream& out) const;
  uint64_t drawn() const { return drawn_; }  // instructions that blocks were made for and that have run to their end

 private:
  const Vcpu& vcpu_;
  CodeMode mode_;
  uint64_t blocks_ = 0, executed_ = 0, drawn_ = 0, faults_ = 0, over_page_end_ = 0;
  uint64_t x87_tags_ = 0, mxcsr_ = 0, simd_ = 0, memory_ = 0, flags_ = 0;
  std::map<unsigned, uint64_t> vectors_;
  std::map<size_t, uint64_t> rows_;
};

}  // namespace vireo::softkvm
