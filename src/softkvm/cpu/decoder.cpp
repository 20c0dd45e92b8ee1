// SPDX-License-Identifier: Apache-2.0
// The decoder: prefixes, opcode, row, modrm, immediate, then the row's operands filled in. Spec: Intel SDM vol 2, chapter 2 (2.1 legacy
// and REX, 2.3 VEX, 2.7 EVEX). Where Intel and AMD differ (66 on near branches in 64-bit mode) this follows Intel.
#include "softkvm/cpu/decoder.h"

#include <initializer_list>

#include "softkvm/cpu/decode_tables.h"
#include "softkvm/cpu/decode_words.h"

namespace vireo::softkvm {
namespace {

using words::kFlagEffects;

// --- bytes ----------------------------------------------------------------------------------------------------------------------------
enum PrefixByte : uint8_t { kNoPrefix, kSegmentPrefix, kOpsizePrefix, kAddrsizePrefix, kLockPrefix, kRepPrefix, kRepnePrefix, kRexPrefix };

struct ByteClasses {
  uint8_t at[2][256] = {};  // by [64-bit mode]
};
constexpr ByteClasses kByteClasses = [] {
  ByteClasses c;
  for (auto& t : c.at) {
    for (unsigned b : {0x26u, 0x2Eu, 0x36u, 0x3Eu, 0x64u, 0x65u}) t[b] = kSegmentPrefix;
    t[0x66] = kOpsizePrefix;
    t[0x67] = kAddrsizePrefix;
    t[0xF0] = kLockPrefix;
    t[0xF3] = kRepPrefix;
    t[0xF2] = kRepnePrefix;
  }
  for (unsigned b = 0x40; b < 0x50; b++) c.at[1][b] = kRexPrefix;
  return c;
}();

inline uint64_t load2(const uint8_t* p) { uint16_t v; __builtin_memcpy(&v, p, 2); return v; }
inline uint64_t load4(const uint8_t* p) { uint32_t v; __builtin_memcpy(&v, p, 4); return v; }
inline uint64_t load8(const uint8_t* p) { uint64_t v; __builtin_memcpy(&v, p, 8); return v; }

// --- sizes ----------------------------------------------------------------------------------------------------------------------------
// What sizes depend on: legacy by operand size (2 4 8) and mode; VEX and EVEX by vector length and a W that counts.
constexpr unsigned kSizeContexts = 12;
constexpr unsigned legacy_context(unsigned size_log, bool mode64) { return (size_log - 1) * 2 + mode64; }
constexpr unsigned vector_context(unsigned length, bool w) { return 6 + length * 2 + w; }

struct SizeTable {
  uint16_t at[kSizeContexts][unsigned(Size::kCount)] = {};
};
constexpr SizeTable kSizes = [] {
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
constexpr ClassTable kClasses = [] {
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

constexpr uint32_t kConditionFlags[8] = {kOF, kCF, kZF, kCF | kZF, kSF, kPF, kSF | kOF, kZF | kSF | kOF};  // by opcode >> 1 & 7

// --- 16-bit addressing ----------------------------------------------------------------------------------------------------------------
struct Address16 {
  uint8_t base, index, segment;
};
constexpr uint8_t kBX = 3, kBP = 5, kSI = 6, kDI = 7;
constexpr Address16 kAddress16[8] = {{kBX, kSI, kDS}, {kBX, kDI, kDS}, {kBP, kSI, kSS},          {kBP, kDI, kSS},
                                     {kSI, kNoRegister, kDS}, {kDI, kNoRegister, kDS}, {kBP, kNoRegister, kSS}, {kBX, kNoRegister, kDS}};

// --- one decode -----------------------------------------------------------------------------------------------------------------------
struct Decoder {
  const uint8_t* p;
  const uint8_t* const start;
  const uint8_t* const end;
  const size_t size;
  Insn& out;
  const bool mode64;
  uint8_t ext_r = 0, ext_x = 0, ext_b = 0, ext_rr = 0, ext_vv = 0;  // R, X, B as 8; R', V' as 16
  uint8_t rounding = 0;  // EVEX.L'L

  DecodeStatus ended() const { return size >= kMaxInsnLength ? DecodeStatus::kTooLong : DecodeStatus::kTruncated; }
  bool has(unsigned n) const { return size_t(end - p) >= n; }

  DecodeStatus vex2();
  DecodeStatus vex3();
  DecodeStatus evex();
  void set_prefix(unsigned pp) {
    out.opsize = pp == 1;
    out.rep = pp == 2;
    out.repne = pp == 3;
    out.mandatory_prefix = pp != 0;
  }
  bool prefixed() const { return out.lock | out.rep | out.repne | out.opsize | (out.rex != 0); }
  DecodeStatus memory(bool vsib);
  DecodeStatus immediate(ImmediateKind kind);
};

DecodeStatus Decoder::vex2() {
  if (!has(2)) return ended();
  if (prefixed()) return DecodeStatus::kInvalid;
  const uint8_t b = *p++;
  out.encoding = Encoding::kVex;
  out.map = OpcodeMap::k0F;
  if (mode64) ext_r = b & 0x80 ? 0 : 8;
  out.vvvv = ~b >> 3 & 15;
  rounding = b >> 2 & 1;
  set_prefix(b & 3);
  return DecodeStatus::kOk;
}

DecodeStatus Decoder::vex3() {
  if (!has(3)) return ended();
  if (prefixed()) return DecodeStatus::kInvalid;
  const uint8_t a = *p++, b = *p++;
  out.encoding = Encoding::kVex;
  if (mode64) {
    ext_r = a & 0x80 ? 0 : 8;
    ext_x = a & 0x40 ? 0 : 8;
    ext_b = a & 0x20 ? 0 : 8;
  }
  const unsigned map = a & 31;
  if (map < 1 || map > 3) return DecodeStatus::kInvalid;
  out.map = OpcodeMap(map);
  out.w = b >> 7;
  out.vvvv = ~b >> 3 & 15;
  rounding = b >> 2 & 1;
  set_prefix(b & 3);
  return DecodeStatus::kOk;
}

DecodeStatus Decoder::evex() {
  if (!has(4)) return ended();
  if (prefixed()) return DecodeStatus::kInvalid;
  const uint8_t a = *p++, b = *p++, c = *p++;
  out.encoding = Encoding::kEvex;
  const unsigned map = a & 7;
  if (a & 8 || !(b & 4) || map == 0 || map == 4 || map == 7) return DecodeStatus::kInvalid;
  if (mode64) {
    ext_r = a & 0x80 ? 0 : 8;
    ext_x = a & 0x40 ? 0 : 8;
    ext_b = a & 0x20 ? 0 : 8;
    ext_rr = a & 0x10 ? 0 : 16;
  }
  ext_vv = c & 8 ? 0 : 16;
  if (!mode64 && ext_vv) return DecodeStatus::kInvalid;
  out.map = map < 4 ? OpcodeMap(map) : map == 5 ? OpcodeMap::kMap5 : OpcodeMap::kMap6;
  out.w = b >> 7;
  out.vvvv = (~b >> 3 & 15) | ext_vv;
  set_prefix(b & 3);
  out.zeroing = c >> 7;
  rounding = c >> 5 & 3;
  out.evex_b = c >> 4 & 1;
  out.opmask = c & 7;
  return DecodeStatus::kOk;
}

// The modrm memory operand: sib and displacement. disp8 is scaled later, when the operand's size is known.
DecodeStatus Decoder::memory(bool vsib) {
  const unsigned mod = out.modrm >> 6, rm = out.modrm & 7;
  unsigned displacement = mod == 1 ? 1 : 0;
  if (out.address_size == 2) {
    if (vsib) return DecodeStatus::kInvalid;
    const Address16& a = kAddress16[rm];
    if (mod == 2) displacement = 2;
    if (mod == 0 && rm == 6) {
      displacement = 2;
    } else {
      out.base = a.base;
      out.index = a.index;
      out.segment = a.segment;
    }
  } else {
    if (mod == 2) displacement = 4;
    if (rm == 4) {
      if (!has(1)) return ended();
      out.sib = *p++;
      out.has_sib = true;
      const unsigned base = out.sib & 7, index = (out.sib >> 3 & 7) | ext_x;
      out.scale = uint8_t(1u << (out.sib >> 6));
      if (vsib) {
        out.index = uint8_t(index | ext_vv);
      } else if (index != 4) {
        out.index = uint8_t(index);
      }
      if (base == 5 && mod == 0) {
        displacement = 4;
      } else {
        out.base = uint8_t(base | ext_b);
      }
    } else if (vsib) {
      return DecodeStatus::kInvalid;
    } else if (rm == 5 && mod == 0) {
      displacement = 4;
      out.rip_relative = mode64;
    } else {
      out.base = uint8_t(rm | ext_b);
    }
    if (out.base == 4 || out.base == 5) out.segment = kSS;
  }
  if (!has(displacement)) return ended();
  out.displacement_size = uint8_t(displacement);
  if (displacement == 1) {
    out.displacement = int8_t(*p);
  } else if (displacement == 4) {
    out.displacement = int32_t(load4(p));
  } else if (displacement == 2) {
    out.displacement = int16_t(load2(p));
  }
  p += displacement;
  return DecodeStatus::kOk;
}

DecodeStatus Decoder::immediate(ImmediateKind kind) {
  unsigned n = 1, n2 = 0;
  switch (kind) {
    case ImmediateKind::kNone: return DecodeStatus::kOk;
    case ImmediateKind::kByte:
    case ImmediateKind::kSignedByte:
    case ImmediateKind::kRelativeByte: n = 1; break;
    case ImmediateKind::kWord: n = 2; break;
    case ImmediateKind::kZ:
    case ImmediateKind::kRelativeZ: n = out.operand_size == 2 ? 2 : 4; break;
    case ImmediateKind::kV: n = out.operand_size; break;
    case ImmediateKind::kFar: n = out.operand_size == 2 ? 2 : 4; n2 = 2; break;
    case ImmediateKind::kEnter: n = 2; n2 = 1; break;
    case ImmediateKind::kBytes: n2 = 1; break;
    case ImmediateKind::kMoffs: n = out.address_size; break;
  }
  if (!has(n + n2)) return ended();
  uint64_t v;
  if (n == 1) v = *p;
  else if (n == 4) v = load4(p);
  else if (n == 2) v = load2(p);
  else v = load8(p);
  if (kind == ImmediateKind::kMoffs) {
    out.displacement = int64_t(v);
    out.displacement_size = uint8_t(n);
    p += n;
    return DecodeStatus::kOk;
  }
  if (kind == ImmediateKind::kSignedByte || kind == ImmediateKind::kRelativeByte) {
    out.immediate = int8_t(v);
  } else if (kind == ImmediateKind::kZ || kind == ImmediateKind::kRelativeZ) {
    out.immediate = n == 2 ? int64_t(int16_t(v)) : int64_t(int32_t(v));
  } else {
    out.immediate = int64_t(v);
  }
  out.immediate_size = uint8_t(n);
  p += n;
  if (n2) {
    out.immediate2 = uint16_t(n2 == 2 ? load2(p) : *p);
    out.immediate2_size = uint8_t(n2);
    p += n2;
  }
  return DecodeStatus::kOk;
}

// Blanks `out`: by plain stores, which beat the string instruction a compiler takes for this size.
inline void blank(Insn& out) {
  static_assert(sizeof(Insn) % 8 == 0);
  uint8_t* p = reinterpret_cast<uint8_t*>(&out);
  constexpr uint64_t kZero = 0;
#pragma GCC unroll 64
  for (unsigned i = 0; i < sizeof(Insn); i += 8) __builtin_memcpy(p + i, &kZero, 8);
  out.segment_prefix = kNoRegister;
  out.base = kNoRegister;
  out.index = kNoRegister;
  out.scale = 1;
  out.segment = kDS;
}

}  // namespace

DecodeStatus decode(const uint8_t* bytes, size_t size, CodeMode mode, Insn& out) {
  blank(out);
  const bool mode64 = mode == CodeMode::k64;
  if (size > kMaxInsnLength) size = kMaxInsnLength;
  Decoder d{.p = bytes, .start = bytes, .end = bytes + size, .size = size, .out = out, .mode64 = mode64};
  out.mode = mode;

  // Prefixes. In each group the last one counts; REX counts only right before the opcode.
  const uint8_t* classes = kByteClasses.at[mode64];
  uint8_t segment = kNoRegister;
  uint8_t opcode;
  for (;;) {
    if (d.p == d.end) return d.ended();
    opcode = *d.p;
    const uint8_t cls = classes[opcode];
    if (cls == kNoPrefix) break;
    d.p++;
    if (cls == kRexPrefix) {
      out.rex = opcode;
      continue;
    }
    out.rex = 0;
    switch (cls) {
      case kSegmentPrefix:
        if (opcode >= 0x64) segment = opcode == 0x64 ? kFS : kGS;
        else if (!mode64) segment = opcode >> 3 & 3;
        break;
      case kOpsizePrefix: out.opsize = true; break;
      case kAddrsizePrefix: out.addrsize = true; break;
      case kLockPrefix: out.lock = true; break;
      case kRepPrefix: out.rep = true; out.repne = false; break;
      case kRepnePrefix: out.repne = true; out.rep = false; break;
    }
  }
  out.segment_prefix = segment;
  if (out.rex) {
    d.ext_r = out.rex << 1 & 8;
    d.ext_x = out.rex << 2 & 8;
    d.ext_b = out.rex << 3 & 8;
    out.w = out.rex >> 3 & 1;
  }

  // The opcode and its map.
  d.p++;
  unsigned map = kLegacyOneByte;
  DecodeStatus status = DecodeStatus::kOk;
  if (opcode == 0x0F) {
    if (!d.has(1)) return d.ended();
    opcode = *d.p++;
    map = kLegacy0F;
    if (opcode == 0x38 || opcode == 0x3A) {
      if (!d.has(1)) return d.ended();
      map = opcode == 0x38 ? kLegacy0F38 : kLegacy0F3A;
      opcode = *d.p++;
    }
    out.map = OpcodeMap(map);
  } else if (opcode == 0xC4 || opcode == 0xC5 || opcode == 0x62) {
    // In 16- and 32-bit modes these are LES, LDS and BOUND unless the modrm byte they would have names a register.
    if (!mode64 && !d.has(1)) return d.ended();
    if (mode64 || *d.p >= 0xC0) {
      status = opcode == 0xC5 ? d.vex2() : opcode == 0xC4 ? d.vex3() : d.evex();
      if (status != DecodeStatus::kOk) return status;
      if (out.encoding == Encoding::kVex) map = kVex0F + unsigned(out.map) - 1;
      else map = kEvex0F + unsigned(out.map) - 1;
      opcode = *d.p++;
    }
  }
  out.opcode = opcode;

  // The row.
  const bool legacy = out.encoding == Encoding::kLegacy;
  const unsigned prefix = out.rep ? 2 : out.repne ? 3 : out.opsize ? 1 : 0;
  const Slot slot = kSlots.at[map][opcode];
  unsigned index = 0;
  if (slot.choices) {
    unsigned mod = 0;
    if (slot.choices & kHasModrm) {
      if (!d.has(1)) return d.ended();
      out.has_modrm = true;
      out.modrm = *d.p++;
      mod = out.modrm >= 0xC0;
      out.reg = uint8_t((out.modrm >> 3 & 7) | d.ext_r | d.ext_rr);
      out.rm = uint8_t((out.modrm & 7) | d.ext_b);
    }
    if (slot.choices & kByPrefix) index = prefix;
    if (slot.choices & kByMod) index = index << 1 | mod;
    if (slot.choices & kByReg) index = index << 3 | (out.modrm >> 3 & 7);
    if (slot.choices & kByRm) index = index << 3 | (out.modrm & 7);
    if (slot.choices & (kByW | kByLength | kByMode)) {
      if (slot.choices & kByW) index = index << 1 | out.w;
      // With static rounding the length bits are the rounding mode and the length is 512 bits.
      if (slot.choices & kByLength) index = index << 2 | (out.evex_b && mod ? 2 : d.rounding);
      if (slot.choices & kByMode) index = index << 1 | mode64;
    }
  }
  unsigned number = kRowNumbers[slot.base + index];
  if (opcode == 0x90 && d.ext_b && map == kLegacyOneByte && !out.rep) number = kRowNumbers[kSlots.at[kLegacyOneByte][0x91].base];  // xchg r8, rAX
  if (number == 0) return DecodeStatus::kInvalid;
  const Row& row = kRows[number];
  const uint32_t attributes = row.attributes;
  out.mnemonic = row.mnemonic;
  out.form = row.form;
  out.feature = uint16_t(row.feature);

  // Sizes. A 66 that chose the row is no operand size prefix.
  unsigned context;
  {
    const unsigned prefixes = row.match >> match::kPrefixShift & 15;
    const bool opsize = out.opsize && !(legacy && prefixes == 2);
    if (legacy) out.mandatory_prefix = prefixes && !(prefixes & 1) && (prefix != 1 || prefixes == 2);
    unsigned log;
    if (mode64) {
      out.address_size = out.addrsize ? 4 : 8;
      if (out.w || attributes & kForce64) log = 3;
      else if (opsize && legacy) log = 1;
      else log = attributes & kDefault64 ? 3 : 2;
    } else {
      out.address_size = (mode == CodeMode::k16) != out.addrsize ? 2 : 4;
      log = (mode == CodeMode::k16) != (opsize && legacy) ? 1 : 2;
    }
    out.operand_size = uint8_t(1u << log);
    context = legacy_context(log, mode64);
  }

  bool is_memory = out.has_modrm && out.modrm < 0xC0 && !(attributes & kModIgnored);
  if (!legacy) {
    if (out.vvvv && !(attributes & kUsesVvvv)) {
      // A gather's V' belongs to its index.
      if (!(attributes & kNo16Mode) || out.vvvv & 15) return DecodeStatus::kInvalid;
    }
    unsigned length = d.rounding;
    if (out.encoding == Encoding::kEvex) {
      const uint32_t mask = attributes & kMaskBits;
      if (out.opmask) {
        if (!mask) return DecodeStatus::kInvalid;
        if (is_memory) out.form = out.form == Form::kPlain ? Form::kSpecial : out.form;
      } else if (mask == kMaskNeeded || out.zeroing) {
        return DecodeStatus::kInvalid;
      }
      if (out.zeroing && mask != kMaskZero) return DecodeStatus::kInvalid;
      if (out.evex_b) {
        if (is_memory ? !(attributes & kBroadcastBits) : !(attributes & (kRounding | kSae))) return DecodeStatus::kInvalid;
        if (!is_memory) length = 2;
      }
      if (!is_memory) out.rm |= d.ext_x << 1;
      if (length == 3) return DecodeStatus::kInvalid;
      if (attributes & kScalar) length = 0;
      out.needs_vl = length < 2 && !(attributes & kScalar);
    } else if (attributes & kAvx2If256 && length == 1) {
      out.feature = uint16_t(Feature::kAvx2);
    }
    out.vector_length = uint8_t(16u << length);
    context = vector_context(length, out.w && mode64);
    if (!mode64) out.vvvv &= 7;
  } else if (out.lock) {
    if (!(attributes & kLock) || !is_memory) return DecodeStatus::kInvalid;
  }

  if (is_memory) {
    status = d.memory(attributes & kNo16Mode);
    if (status != DecodeStatus::kOk) return status;
    if (attributes & kSpecialMemory) out.form = Form::kSpecial;
  }
  uint8_t is4 = 0;
  if (attributes & kIs4) {
    if (!d.has(1)) return d.ended();
    out.immediate = *d.p++;
    out.immediate_size = 1;
    is4 = uint8_t(out.immediate >> 4) & (mode64 ? 15 : 7);
  } else if (row.immediate != ImmediateKind::kNone) {
    status = d.immediate(row.immediate);
    if (status != DecodeStatus::kOk) return status;
  }
  if (segment != kNoRegister) out.segment = segment;

  // Operands.
  const uint8_t numbers[kSources] = {0, out.reg, out.rm, out.vvvv, uint8_t((opcode & 7) | d.ext_b), is4};
  const uint16_t* sizes = kSizes.at[context];
  const unsigned count = row.operand_count;
  out.operand_count = uint8_t(count);
  for (unsigned i = 0; i < count; i++) {
    const OperandSpec spec = row.operands[i];
    const ClassInfo& info = kClasses.at[unsigned(spec.cls)];
    Operand& o = out.operands[i];
    o.access = spec.access;
    o.field = info.field;
    o.size = sizes[unsigned(spec.size)];
    if (is_memory && info.memory != OperandKind::kNone) {
      o.kind = info.memory;
      if (spec.access == OperandAccess::kNone) {
        o.size = 0;
      } else if (out.encoding == Encoding::kEvex) {
        if (out.evex_b) o.size = uint16_t(1u << (attributes & kBroadcastBits) / kBroadcast2);
        if (out.zeroing && uint8_t(spec.access) & uint8_t(OperandAccess::kWrite)) return DecodeStatus::kInvalid;
        if (out.displacement_size == 1) {
          const uint32_t scale = attributes & kScaleBits;
          out.displacement *= scale ? 1 << (scale / kScale1 - 1) : o.size;
        }
      }
      continue;
    }
    o.kind = info.kind;
    const unsigned reg = (info.source == kFromSpec ? spec.reg : numbers[info.source]) & info.mask;
    if (reg > info.limit) return DecodeStatus::kInvalid;
    o.reg = uint8_t(reg);
    if (i == 0 && out.opmask && !out.zeroing && o.kind == OperandKind::kVector) o.access = OperandAccess(uint8_t(o.access) | 1);  // merging keeps elements
    if (o.kind == OperandKind::kGpr && o.size == 1 && reg - 4 < 4 && (!out.rex || info.source == kFromSpec)) {
      o.reg -= 4;
      o.high = true;
    }
  }

  // What only some rows have.
  if (row.flags) {
    const FlagEffect& f = kFlagEffects[row.flags];
    out.flags_read = f.read;
    out.flags_written = f.written;
    out.flags_maybe = f.maybe;
  }
  constexpr uint32_t kRare = kCondition | kShiftCount | kRepeat | kAddressSized | kDistinct;
  if (attributes & kRare) {
    if (attributes & kCondition) out.flags_read = kConditionFlags[opcode >> 1 & 7];
    if (attributes & kShiftCount && out.immediate_size) {
      const unsigned masked = unsigned(out.immediate) & (out.operands[0].size == 8 ? 63 : 31);  // byte operands ignore REX.W
      if (masked == 0) out.flags_read = out.flags_written = 0;
    }
    if (attributes & kRepeat && (out.rep || out.repne)) {
      out.flags_maybe = out.flags_written;
      out.flags_written = 0;
    }
    if (attributes & kAddressSized) out.operands[0].size = out.address_size;
    if (attributes & kDistinct) {
      for (unsigned i = 1; i < count; i++) {
        const Operand& o = out.operands[i];
        if (o.kind == OperandKind::kVector && o.reg == out.operands[0].reg) return DecodeStatus::kInvalid;
      }
      if (attributes & kNo16Mode) {  // gathers: the index too, and VEX's mask
        if (out.index == out.operands[0].reg) return DecodeStatus::kInvalid;
        if (out.encoding == Encoding::kVex && out.index == out.vvvv) return DecodeStatus::kInvalid;
      }
    }
  }
  if (map <= kLegacy0F) {
    for (unsigned i = 0; i < count && i < 2; i++) {
      const Operand& o = out.operands[i];
      if (o.kind == OperandKind::kSegment && o.reg == kCS && o.access == OperandAccess::kWrite) return DecodeStatus::kInvalid;
      if (o.kind == OperandKind::kControl && !(0x11D >> o.reg & 1)) return DecodeStatus::kInvalid;
      if (o.kind == OperandKind::kString) break;
    }
  }

  const unsigned length = unsigned(d.p - bytes);
  out.length = uint8_t(length);
  if (size == kMaxInsnLength) {
    uint64_t low = load8(bytes), high = load8(bytes + 7) >> 8;
    if (length < 8) low &= ~(~0ull << 8 * length), high = 0;
    else high &= ~(~0ull << 8 * (length - 8));
    __builtin_memcpy(out.bytes, &low, 8);
    const uint32_t middle = uint32_t(high);
    const uint16_t upper = uint16_t(high >> 32);
    __builtin_memcpy(out.bytes + 8, &middle, 4);
    __builtin_memcpy(out.bytes + 12, &upper, 2);
    out.bytes[14] = uint8_t(high >> 48);
  } else {
    for (unsigned i = 0; i < length; i++) out.bytes[i] = bytes[i];
  }
  return DecodeStatus::kOk;
}

}  // namespace vireo::softkvm
