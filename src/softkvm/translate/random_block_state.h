// SPDX-License-Identifier: Apache-2.0
// For tests: what a random block starts from and leaves behind, on softkvm and on the bare CPU: general registers, flags, SIMD and x87 state as XSAVE
// stores it, memory, and the exception that ended it.
#pragma once

#include <cstdint>
#include <vector>

#include "softkvm/translate/random_block.h"

namespace vireo::softkvm {

constexpr unsigned kAreaSize = 2688;  // x87 to Hi16_ZMM in the standard format; AMD's CPUs have them nearer together (AreaLayout::end)
uint64_t components();  // of the state, by the bits of XCR0: x87 to Hi16_ZMM, as far as this host has them
constexpr size_t kDataSize = BlockSpace::kPages * 4096;

struct BlockState {
  CodeMode mode = CodeMode::k64;
  uint64_t gpr[16] = {}, rip = 0, flags = 0;
  unsigned vector = 0;
  uint64_t error = 0, cr2 = 0;
  alignas(64) uint8_t area[kAreaSize] = {};
  std::vector<uint8_t> data = std::vector<uint8_t>(kDataSize);

  uint64_t code_base() const { return code_base(mode); }
  static uint64_t code_base(CodeMode mode) { return mode == CodeMode::k16 ? BlockSpace::kCode : 0; }
};

struct AreaLayout {
  unsigned offset[8] = {0, 160, 576, 0, 0, 0, 0, 0}, size[8] = {160, 256, 256, 0, 0, 0, 0, 0};
  unsigned end = 576;  // a signal's frame holds other things behind it
  AreaLayout();
};
const AreaLayout& layout();

// Components not in XSTATE_BV are spelled out; what is not compared is made zero.
void normalize(uint8_t* area);

// A block's start, of a seed. All of `state` is written.
void random_state(BlockState& state, uint64_t seed, uint64_t rip, CodeMode mode);

}  // namespace vireo::softkvm
