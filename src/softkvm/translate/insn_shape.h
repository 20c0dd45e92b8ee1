// SPDX-License-Identifier: Apache-2.0
// What the translator asks of an instruction's operands again and again, found by one pass over them.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "softkvm/cpu/insn.h"

namespace vireo::softkvm {

// What there is to know of some instructions by their names. Bits of traits_of().
enum InsnTrait : uint8_t {
  kDoesNothing = 1,     // no fault, no effect
  kIsLea = 2,
  kIsMaskedMove = 4,    // stores to [rDI], with no memory operand in the encoding
  kZeroesVectors = 8,
};

struct InsnTraits {
  uint8_t at[static_cast<unsigned>(Mnemonic::kCount)];
};
constexpr InsnTraits kInsnTraits = [] {
  using enum Mnemonic;
  InsnTraits t{};
  for (Mnemonic m : {kNop, kEndbr32, kEndbr64, kCldemote, kPrefetch, kPrefetchw, kPrefetchwt1, kPrefetchnta, kPrefetcht0, kPrefetcht1, kPrefetcht2})
    t.at[static_cast<unsigned>(m)] = kDoesNothing;
  t.at[static_cast<unsigned>(kLea)] = kIsLea;
  for (Mnemonic m : {kMaskmovq, kMaskmovdqu, kVmaskmovdqu}) t.at[static_cast<unsigned>(m)] = kIsMaskedMove;
  for (Mnemonic m : {kVzeroall, kVzeroupper}) t.at[static_cast<unsigned>(m)] = kZeroesVectors;
  return t;
}();
inline uint8_t traits_of(const Insn& insn) { return kInsnTraits.at[static_cast<unsigned>(insn.mnemonic)]; }

struct InsnShape {
  uint32_t kinds = 0;     // bit n: there is an operand of OperandKind n
  uint16_t named = 0;     // bit n: general register n is an operand (AH CH DH BH: 0-3)
  uint16_t written = 0;   // ... and written
  uint8_t displaced = 0;  // operands that are R9, R10 or R11, whose place is no host register
  int8_t memory = -1;     // which operand is the explicit memory operand
  bool high = false;      // AH CH DH or BH is an operand
  uint8_t traits = 0;     // InsnTrait

  static constexpr uint16_t kDisplaced = 0x0e00, kMoved = kDisplaced | 1u << 4;  // the latter: those the host has elsewhere

  bool has(OperandKind kind) const { return kinds >> static_cast<unsigned>(kind) & 1; }
  // Does every operand that is a register have the host's of the same number?
  bool as_in_guest() const { return !(named & kMoved) && !high; }

  static InsnShape of(const Insn& insn) {
    InsnShape s;
    s.traits = traits_of(insn);
    for (unsigned i = 0; i < insn.operand_count; i++) {
      const Operand& o = insn.operands[i];
      s.kinds |= 1u << static_cast<unsigned>(o.kind);
      if (o.kind == OperandKind::kGpr) {
        const uint16_t bit = static_cast<uint16_t>(1u << o.reg);
        s.named |= bit;
        if (static_cast<unsigned>(o.access) & 2) s.written |= bit;
        s.high |= o.high;
        s.displaced += bit >> 9 & 7 && !o.high;
      } else if (o.kind == OperandKind::kMemory && s.memory < 0) {
        s.memory = static_cast<int8_t>(i);
      }
    }
    return s;
  }
};

}  // namespace vireo::softkvm
