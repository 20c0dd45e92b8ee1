// SPDX-License-Identifier: Apache-2.0
// For tests: runs random blocks on the bare CPU of this machine, in this process. A block is entered and left by signals, whose frames hold the
// whole state.
#pragma once

#include <signal.h>

#include <span>

#include "softkvm/translate/random_block_state.h"

namespace vireo::softkvm {

class BareCpu {
 public:
  BareCpu();
  ~BareCpu();
  // Some paravirtualized hosts run 64-bit programs only.
  static bool runs(CodeMode mode);
  // `out.data` of pages that are absent is as it is in `in`.
  void run(const BlockState& in, std::span<const uint8_t> code, BlockState& out);

 private:
  void protect();  // after the data is in

  uint8_t *code_, *data_;
  stack_t stack_{};
  bool protected_ = false;
};

}  // namespace vireo::softkvm
