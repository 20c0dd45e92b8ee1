// SPDX-License-Identifier: Apache-2.0
// The pieces of an encoding that all maps have in common: what operands' sizes and classes mean, and the bytes behind the opcode: modrm's memory operand
// and immediates. Spec: Intel SDM vol 2, chapter 2.
#pragma once

#include "softkvm/cpu/decode_row.h"
#include "softkvm/cpu/decoder.h"

namespace vireo::softkvm {

inline uint64_t load2(const uint8_t* p) { uint16_t v; __builtin_memcpy(&v, p, 2); return v; }
inline uint64_t load4(const uint8_t* p) { uint32_t v; __builtin_memcpy(&v, p, 4); return v; }
inline uint64_t load8(const uint8_t* p) { uint64_t v; __builtin_memcpy(&v, p, 8); return v; }

// --- sizes ----------------------------------------------------------------------------------------------------------------------------
// What sizes depend on: legacy by operand size (2 4 8) and mode; VEX and EVEX by vector length and a W that counts.
constexpr unsigned kSizeContexts = 12;
constexpr unsigned legacy_context(unsigned size_log, bool mode64) { return (size_log - 1) * 2 + mode64; }
constexpr unsigned vector_context(unsigned length, bool w) { return 6 + length * 2 + w; }

struct SizeTable {
  uint16_t at[kSizeContexts][32] = {};  // by Size, of which there are fewer
};
static_assert(unsigned(Size::kCount) <= 32);
inline constexpr SizeTable kSizes = [] {
  SizeTable t;
  constexpr uint16_t kFixed[] = {0, 1, 2, 4, 6, 8, 10, 14, 16, 28, 32, 48, 64, 94, 108, 512};
  for (unsigned c = 0; c < kSizeContexts; c++) {
    auto& row = t.at[c];
    for (unsigned i = 0; i < unsigned(Size::kV); i++) row[i] = kFixed[i];
    const bool legacy = c < 6, mode64 = legacy && c & 1;
    const unsigned v = legacy ? 2u << (c / 2) : (c & 1) ? 8 : 4;
    const unsigned x = legacy ? 16 : 16u << ((c - 6) / 2);
    const auto set = [&](Size s, unsigned value) { row[unsigned(s)] = uint16_t(value); };
    set(Size::kV, v);
    set(Size::kZ, v == 2 ? 2 : 4);
    set(Size::kY, v == 8 ? 8 : 4);
    set(Size::kP, v + 2);
    set(Size::kA, v * 2);
    set(Size::kS, mode64 ? 10 : 6);
    set(Size::kMode, mode64 ? 8 : 4);
    set(Size::kEnv, v == 2 ? 14 : 28);
    set(Size::kSave, v == 2 ? 94 : 108);
    set(Size::kX, x);
    set(Size::kHalf, x / 2);
    set(Size::kQuarter, x / 4);
    set(Size::kEighth, x / 8);
  }
  return t;
}();

// --- operand classes ----------------------------------------------------------------------------------------------------------------
enum Source : uint8_t { kFromSpec, kFromReg, kFromRm, kFromVvvv, kFromLow3, kFromIs4, kSources };

struct ClassInfo {
  OperandKind kind = OperandKind::kNone;    // as a register, or whatever it is
  OperandKind memory = OperandKind::kNone;  // with a modrm memory operand; kNone: the class does not look at modrm.mod
  OperandField field = OperandField::kNone;
  Source source = kFromSpec;
  uint8_t mask = 0;   // of the register number
  uint8_t limit = 0;  // register numbers above are #UD
};
struct ClassTable {
  ClassInfo at[unsigned(OperandClass::kCount)];
};
inline constexpr ClassTable kClasses = [] {
  using K = OperandKind;
  using O = OperandField;
  using C = OperandClass;
  ClassTable t{};
  const auto set = [&](C c, K kind, K memory, O field, Source source, unsigned mask, unsigned limit) {
    t.at[unsigned(c)] = {kind, memory, field, source, uint8_t(mask), uint8_t(limit)};
  };
  set(C::kE, K::kGpr, K::kMemory, O::kModrmRm, kFromRm, 15, 15);
  set(C::kM, K::kMemory, K::kMemory, O::kModrmRm, kFromRm, 0, 0);
  set(C::kR, K::kGpr, K::kNone, O::kModrmRm, kFromRm, 15, 15);
  set(C::kG, K::kGpr, K::kNone, O::kModrmReg, kFromReg, 31, 15);
  set(C::kB, K::kGpr, K::kNone, O::kVvvv, kFromVvvv, 31, 15);
  set(C::kZ, K::kGpr, K::kNone, O::kOpcodeLow3, kFromLow3, 15, 15);
  set(C::kFixed, K::kGpr, K::kNone, O::kImplicit, kFromSpec, 15, 15);
  set(C::kAccumulator, K::kGpr, K::kNone, O::kImplicit, kFromSpec, 0, 0);
  set(C::kSegment, K::kSegment, K::kNone, O::kModrmReg, kFromReg, 7, 5);
  set(C::kFixedSegment, K::kSegment, K::kNone, O::kImplicit, kFromSpec, 7, 7);
  set(C::kControl, K::kControl, K::kNone, O::kModrmReg, kFromReg, 15, 8);
  set(C::kDebug, K::kDebug, K::kNone, O::kModrmReg, kFromReg, 15, 7);
  set(C::kP, K::kMmx, K::kNone, O::kModrmReg, kFromReg, 7, 7);
  set(C::kQ, K::kMmx, K::kMemory, O::kModrmRm, kFromRm, 7, 7);
  set(C::kN, K::kMmx, K::kNone, O::kModrmRm, kFromRm, 7, 7);
  set(C::kV, K::kVector, K::kNone, O::kModrmReg, kFromReg, 31, 31);
  set(C::kW, K::kVector, K::kMemory, O::kModrmRm, kFromRm, 31, 31);
  set(C::kU, K::kVector, K::kNone, O::kModrmRm, kFromRm, 31, 31);
  set(C::kH, K::kVector, K::kNone, O::kVvvv, kFromVvvv, 31, 31);
  set(C::kL, K::kVector, K::kNone, O::kIs4, kFromIs4, 15, 15);
  set(C::kFixedVector, K::kVector, K::kNone, O::kImplicit, kFromSpec, 31, 31);
  set(C::kMaskG, K::kMask, K::kNone, O::kModrmReg, kFromReg, 31, 7);
  set(C::kMaskE, K::kMask, K::kMemory, O::kModrmRm, kFromRm, 7, 7);
  set(C::kMaskR, K::kMask, K::kNone, O::kModrmRm, kFromRm, 7, 7);
  set(C::kMaskH, K::kMask, K::kNone, O::kVvvv, kFromVvvv, 31, 7);
  set(C::kSt0, K::kX87, K::kNone, O::kImplicit, kFromSpec, 0, 0);
  set(C::kSti, K::kX87, K::kNone, O::kModrmRm, kFromRm, 7, 7);
  set(C::kVsib, K::kVectorMemory, K::kVectorMemory, O::kModrmRm, kFromRm, 0, 0);
  set(C::kImmediate, K::kImmediate, K::kNone, O::kNone, kFromSpec, 0, 0);
  set(C::kOne, K::kImmediate, K::kNone, O::kImplicit, kFromSpec, 0, 0);
  set(C::kRelative, K::kRelative, K::kNone, O::kNone, kFromSpec, 0, 0);
  set(C::kFar, K::kFar, K::kNone, O::kNone, kFromSpec, 0, 0);
  set(C::kMoffs, K::kMoffs, K::kNone, O::kNone, kFromSpec, 0, 0);
  set(C::kX, K::kString, K::kNone, O::kImplicit, kFromSpec, 7, 7);
  set(C::kY, K::kString, K::kNone, O::kImplicit, kFromSpec, 7, 7);
  return t;
}();

// --- 16-bit addressing ----------------------------------------------------------------------------------------------------------------
struct Address16 {
  uint8_t base, index, segment;
};
constexpr uint8_t kBX = 3, kBP = 5, kSI = 6, kDI = 7;
inline constexpr Address16 kAddress16[8] = {{kBX, kSI, kDS}, {kBX, kDI, kDS}, {kBP, kSI, kSS},          {kBP, kDI, kSS},
                                            {kSI, kNoRegister, kDS}, {kDI, kNoRegister, kDS}, {kBP, kNoRegister, kSS}, {kBX, kNoRegister, kDS}};

// --- bytes behind the opcode ------------------------------------------------------------------------------------------------------------
// What is left of the bytes given. Passed by reference to functions that are all inlined, so that it stays in registers.
struct Cursor {
  const uint8_t* p;
  const uint8_t* const end;
  const size_t size;

  DecodeStatus ended() const { return size >= kMaxInsnLength ? DecodeStatus::kTooLong : DecodeStatus::kTruncated; }
  bool has(unsigned n) const { return size_t(end - p) >= n; }
  // `n` bytes (1-8, which has(n)) as a number's upper ones: what is shifted down by 64 - 8 * n.
  [[gnu::always_inline]] uint64_t take_high(unsigned n) {
    uint64_t v = 0;
    if (has(8)) [[likely]] {
      v = load8(p) << (64 - 8 * n);
    } else {
      for (unsigned i = 0; i < n; i++) v = v >> 8 | uint64_t{p[i]} << 56;
    }
    p += n;
    return v;
  }
  // ... zero-extended, and sign-extended.
  [[gnu::always_inline]] uint64_t take(unsigned n) { return take_high(n) >> (64 - 8 * n); }
  [[gnu::always_inline]] int64_t take_signed(unsigned n) { return int64_t(take_high(n)) >> (64 - 8 * n); }
};

// The extensions of modrm's and SIB's fields by prefixes: R, X, B as 8; R', V' as 16.
struct Extensions {
  unsigned r = 0, x = 0, b = 0, rr = 0, vv = 0;
};

// How modrm names memory by 32- and 64-bit addressing.
struct ModrmMemory {
  uint8_t base = kNoRegister;  // or none: without one, or in SIB
  uint8_t displacement = 0;    // bytes
  bool sib = false, rip = false;
};
struct ModrmMemories {
  ModrmMemory at[256];
};
inline constexpr ModrmMemories kModrmMemory = [] {
  ModrmMemories t{};
  for (unsigned i = 0; i < 0xc0; i++) {
    const unsigned mod = i >> 6, rm = i & 7;
    ModrmMemory& m = t.at[i];
    m.displacement = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    if (rm == 4) m.sib = true;
    else if (rm == 5 && mod == 0) m.displacement = 4, m.rip = true;
    else m.base = uint8_t(rm);
  }
  return t;
}();

// The modrm memory operand: sib and displacement. disp8 is scaled later, when the operand's size is known.
[[gnu::always_inline]] inline DecodeStatus decode_memory(Cursor& c, Insn& out, unsigned modrm, unsigned address_size, bool mode64, const Extensions& extend, bool vsib) {
  unsigned n;
  if (address_size != 2) [[likely]] {
    const ModrmMemory& m = kModrmMemory.at[modrm];
    n = m.displacement;
    unsigned base = m.base | extend.b;  // kNoRegister stays
    if (m.sib) {
      if (!c.has(1)) return c.ended();
      const unsigned sib = *c.p++, index = (sib >> 3 & 7) | extend.x;
      out.sib = uint8_t(sib);
      out.has_sib = true;
      out.scale = uint8_t(1u << (sib >> 6));
      if (vsib) out.index = uint8_t(index | extend.vv);
      else out.index = index != 4 ? uint8_t(index) : kNoRegister;
      base = (sib & 7) | extend.b;
      if ((sib & 7) == 5 && modrm < 0x40) n = 4, base = kNoRegister;
    } else if (vsib) {
      return DecodeStatus::kInvalid;
    }
    out.base = uint8_t(base);
    out.rip_relative = m.rip & mode64;
    out.segment = (base & ~1u) == 4 ? kSS : kDS;
  } else {
    if (vsib) return DecodeStatus::kInvalid;
    const unsigned mod = modrm >> 6, rm = modrm & 7;
    n = mod == 1 ? 1 : mod == 2 ? 2 : 0;
    if (mod == 0 && rm == 6) {
      n = 2;
    } else {
      out.base = kAddress16[rm].base;
      out.index = kAddress16[rm].index;
      out.segment = kAddress16[rm].segment;
    }
  }
  if (!c.has(n)) return c.ended();
  out.displacement_size = uint8_t(n);
  if (n) out.displacement = c.take_signed(n);
  return DecodeStatus::kOk;
}

// How many bytes an immediate has, by the operand size's logarithm (1 to 3); kMoffs has the address size's.
struct ImmediateSizes {
  struct {
    uint8_t first[4], second;
    bool sign;
  } at[unsigned(ImmediateKind::kMoffs) + 1];
};
inline constexpr ImmediateSizes kImmediates = [] {
  ImmediateSizes t{};
  const auto set = [&](ImmediateKind k, unsigned at16, unsigned at32, unsigned at64, unsigned second, bool sign) {
    t.at[unsigned(k)] = {{0, uint8_t(at16), uint8_t(at32), uint8_t(at64)}, uint8_t(second), sign};
  };
  using K = ImmediateKind;
  set(K::kByte, 1, 1, 1, 0, false);
  set(K::kSignedByte, 1, 1, 1, 0, true);
  set(K::kRelativeByte, 1, 1, 1, 0, true);
  set(K::kWord, 2, 2, 2, 0, false);
  set(K::kZ, 2, 4, 4, 0, true);
  set(K::kRelativeZ, 2, 4, 4, 0, true);
  set(K::kV, 2, 4, 8, 0, false);
  set(K::kFar, 2, 4, 4, 2, false);
  set(K::kEnter, 2, 2, 2, 1, false);
  set(K::kBytes, 1, 1, 1, 1, false);
  return t;
}();

[[gnu::always_inline]] inline DecodeStatus decode_immediate(Cursor& c, Insn& out, ImmediateKind kind, unsigned size_log) {
  const auto& k = kImmediates.at[unsigned(kind)];
  if (kind == ImmediateKind::kMoffs) [[unlikely]] {
    const unsigned n = out.address_size;
    if (!c.has(n)) return c.ended();
    out.displacement = int64_t(c.take(n));
    out.displacement_size = uint8_t(n);
    return DecodeStatus::kOk;
  }
  const unsigned n = k.first[size_log];
  if (!c.has(n + k.second)) return c.ended();
  out.immediate = k.sign ? c.take_signed(n) : int64_t(c.take(n));
  out.immediate_size = uint8_t(n);
  if (k.second) [[unlikely]] {
    out.immediate2 = uint16_t(c.take(k.second));
    out.immediate2_size = k.second;
  }
  return DecodeStatus::kOk;
}

constexpr uint64_t kLowestBytes[9] = {0, 0xff, 0xffff, 0xffffff, 0xffffffff, 0xffffffffff, 0xffffffffffff, 0xffffffffffffff, ~0ull};

// The instruction's own bytes, and how many.
[[gnu::always_inline]] inline void note_bytes(Insn& out, const uint8_t* bytes, size_t size, unsigned length) {
  out.length = uint8_t(length);
  if (size == kMaxInsnLength) [[likely]] {
    const uint64_t low = load8(bytes);
    if (length <= 8) [[likely]] {
      const uint64_t mine = low & kLowestBytes[length];
      __builtin_memcpy(out.bytes, &mine, 8);
      return;
    }
    const uint64_t high = load8(bytes + 7) >> 8 & ~(~0ull << 8 * (length - 8));
    const uint32_t middle = uint32_t(high);
    const uint16_t upper = uint16_t(high >> 32);
    __builtin_memcpy(out.bytes, &low, 8);
    __builtin_memcpy(out.bytes + 8, &middle, 4);
    __builtin_memcpy(out.bytes + 12, &upper, 2);
    out.bytes[14] = uint8_t(high >> 48);
  } else {
    for (unsigned i = 0; i < length; i++) out.bytes[i] = bytes[i];
  }
}

// VEX and EVEX (decoder_vector.cpp): `opcode` is their first byte and `c` behind it; what `out` has of prefixes is there, `segment` too.
DecodeStatus decode_vector(Cursor c, const uint8_t* bytes, unsigned opcode, bool mode64, uint8_t segment, Insn& out);

}  // namespace vireo::softkvm
