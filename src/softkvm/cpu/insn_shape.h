// SPDX-License-Identifier: Apache-2.0
// What there is to know of an instruction at a glance, which who translates asks again and again: the decoder has it from the row and on its way.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "softkvm/cpu/insn.h"

namespace vireo::softkvm {

enum InsnTrait : uint8_t {
  kDoesNothing = 1,     // no fault, no effect
  kIsLea = 2,
  kIsMaskedMove = 4,    // stores to [rDI], with no memory operand in the encoding
  kZeroesVectors = 8,
  kHasMoffs = 16,       // an operand is OperandKind::kMoffs
  kEverywhere = 32,     // a legacy encoding that needs no feature, of no other unit than the general registers'; the same on all CPUs
};

struct InsnShape {
  uint8_t traits = 0;
  int8_t memory = -1;     // which operand is the explicit memory operand
  uint8_t high = 0;       // is AH CH DH or BH an operand?
  uint8_t displaced = 0;  // operands that are R9, R10 or R11, whose place is no host register
  uint16_t named = 0;     // bit n: general register n is an operand (AH CH DH BH: 0-3)
  uint16_t written = 0;   // ... and written

  static constexpr uint16_t kDisplaced = 0x0e00, kMoved = kDisplaced | 1u << 4;  // the latter: those the host has elsewhere

  // Does every operand that is a register have the host's of the same number?
  bool as_in_guest() const { return !(named & kMoved) && !high; }

  // From the operands.
  static InsnShape of(const Insn& insn);
};

// The traits that a name, a feature and an operand's kind make.
constexpr uint8_t traits_of(Mnemonic mnemonic) {
  using enum Mnemonic;
  for (Mnemonic m : {kNop, kEndbr32, kEndbr64, kCldemote, kPrefetch, kPrefetchw, kPrefetchwt1, kPrefetchnta, kPrefetcht0, kPrefetcht1, kPrefetcht2})
    if (m == mnemonic) return kDoesNothing;
  for (Mnemonic m : {kMaskmovq, kMaskmovdqu, kVmaskmovdqu})
    if (m == mnemonic) return kIsMaskedMove;
  for (Mnemonic m : {kVzeroall, kVzeroupper})
    if (m == mnemonic) return kZeroesVectors;
  return mnemonic == kLea ? kIsLea : 0;
}
constexpr uint8_t traits_of(Mnemonic mnemonic, bool featured, Encoding encoding, const OperandKind* kinds, unsigned count) {
  using enum OperandKind;
  uint8_t traits = traits_of(mnemonic);
  // MOVSXD is not the same; of what does nothing some is undefined on AMD's CPUs.
  bool everywhere = !featured && encoding == Encoding::kLegacy && !(traits & kDoesNothing) && mnemonic != Mnemonic::kMovsxd;
  for (unsigned i = 0; i < count; i++) {
    if (kinds[i] == kMoffs) traits |= kHasMoffs;
    everywhere &= kinds[i] != kX87 && kinds[i] != kMmx && kinds[i] != kVector && kinds[i] != kMask;
  }
  return everywhere ? traits | kEverywhere : traits;
}

inline InsnShape InsnShape::of(const Insn& insn) {
  InsnShape s;
  OperandKind kinds[kMaxOperands];
  for (unsigned i = 0; i < insn.operand_count; i++) {
    const Operand& o = insn.operands[i];
    kinds[i] = o.kind;
    if (o.kind == OperandKind::kMemory) s.memory = static_cast<int8_t>(i);  // there is no more than one
    if (o.kind != OperandKind::kGpr) continue;
    s.named |= static_cast<uint16_t>(1u << o.reg);
    if (static_cast<unsigned>(o.access) & 2) s.written |= static_cast<uint16_t>(1u << o.reg);
    s.high |= o.high;
    s.displaced += kDisplaced >> o.reg & 1;
  }
  s.traits = traits_of(insn.mnemonic, insn.feature, insn.encoding, kinds, insn.operand_count);
  return s;
}

}  // namespace vireo::softkvm
