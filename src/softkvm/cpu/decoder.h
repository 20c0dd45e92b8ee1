// SPDX-License-Identifier: Apache-2.0
// The decoder: bytes to Insn. Table-driven, for the whole x86-64 map. No allocation, no state, general registers only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "softkvm/cpu/insn.h"
#include "softkvm/cpu/insn_shape.h"

namespace vireo::softkvm {

enum class DecodeStatus : uint8_t {
  kOk,
  kInvalid,    // #UD, whatever follows
  kTruncated,  // the bytes given end inside the instruction: fetch more (at most 15)
  kTooLong,    // more than 15 bytes: #GP(0)
};

// Decodes the instruction at `bytes`, of which `size` (at most 15 are read) may be looked at. What is not kOk leaves in `out` what chance wills.
DecodeStatus decode(const uint8_t* bytes, size_t size, CodeMode mode, Insn& out);
DecodeStatus decode(const uint8_t* bytes, size_t size, CodeMode mode, Insn& out, InsnShape& shape);

// No instruction: every byte is known, padding too.
void blank(Insn& out);

// The same for who asks for length, name, form and what becomes of flags only: the rest of `out` may be left out.
DecodeStatus decode_effects(const uint8_t* bytes, size_t size, CodeMode mode, Insn& out);

}  // namespace vireo::softkvm
