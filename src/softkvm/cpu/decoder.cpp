// SPDX-License-Identifier: Apache-2.0
// The decoder: prefixes, opcode, row, modrm, immediate, then the row's operands filled in. Spec: Intel SDM vol 2, chapter 2 (2.1 legacy
// and REX). Where Intel and AMD differ (66 on near branches in 64-bit mode) this follows Intel. VEX and EVEX are decoder_vector.cpp's.
// Making a block is mostly this: so what the instructions of a program take turns in is looked up in tables rather than asked, all that is not stored in
// the result stays in registers, and what is rare is out of the way.
#include "softkvm/cpu/decoder.h"

#include <initializer_list>

#include "softkvm/cpu/decode_pieces.h"
#include "softkvm/cpu/decode_tables.h"
#include "softkvm/cpu/decode_words.h"

namespace vireo::softkvm {
namespace {

using words::kFlagEffects;

// --- bytes ----------------------------------------------------------------------------------------------------------------------------
// What is no opcode of the one-byte map: prefixes, and the ways to other maps.
enum ByteClass : uint8_t {
  kOpcodeByte, kRexPrefix, kEscape, kNopByte /*with REX.B it is another instruction*/, kVectorPrefix, kSegmentPrefix, kOpsizePrefix, kAddrsizePrefix, kLockPrefix, kRepPrefix, kRepnePrefix,
};

struct ByteClasses {
  uint8_t at[2][256] = {};  // by [64-bit mode]
};
constexpr ByteClasses kByteClasses = [] {
  ByteClasses c;
  for (auto& t : c.at) {
    for (unsigned b : {0x26u, 0x2Eu, 0x36u, 0x3Eu, 0x64u, 0x65u}) t[b] = kSegmentPrefix;
    for (unsigned b : {0xC4u, 0xC5u, 0x62u}) t[b] = kVectorPrefix;
    t[0x0F] = kEscape;
    t[0x90] = kNopByte;
    t[0x66] = kOpsizePrefix;
    t[0x67] = kAddrsizePrefix;
    t[0xF0] = kLockPrefix;
    t[0xF3] = kRepPrefix;
    t[0xF2] = kRepnePrefix;
  }
  for (unsigned b = 0x40; b < 0x50; b++) c.at[1][b] = kRexPrefix;
  return c;
}();

// The prefixes. In each group the last one counts; REX counts only right before the opcode.
struct Prefixes {
  uint8_t segment = kNoRegister, rex = 0;
  bool opsize = false, addrsize = false, lock = false, rep = false, repne = false;
};

// All of them, where there is another than REX. Leaves `c` at what is none, if there is that.
Prefixes take_prefixes(Cursor& c, const uint8_t* classes, bool mode64) {
  Prefixes x;
  for (; c.p != c.end; c.p++) {
    const uint8_t byte = *c.p;
    switch (classes[byte]) {
      case kRexPrefix: x.rex = byte; continue;
      case kSegmentPrefix:
        if (byte >= 0x64) x.segment = byte == 0x64 ? kFS : kGS;
        else if (!mode64) x.segment = byte >> 3 & 3;
        break;
      case kOpsizePrefix: x.opsize = true; break;
      case kAddrsizePrefix: x.addrsize = true; break;
      case kLockPrefix: x.lock = true; break;
      case kRepPrefix: x.rep = true; x.repne = false; break;
      case kRepnePrefix: x.repne = true; x.rep = false; break;
      default: return x;
    }
    x.rex = 0;
  }
  return x;
}

// --- rows -----------------------------------------------------------------------------------------------------------------------------
// One operand. `sizes`: of the context. By three stores of words that tables make: Operand's first four bytes, the register among them, and the rest.
struct NamedRegisters {
  unsigned named = 0, high = 0;  // as InsnShape's, but for: bit 16 + n: register n is written
};
[[gnu::always_inline]] inline void fill_operand(Operand& o, const OperandPlan& plan, const uint8_t* numbers, const uint16_t* sizes, bool has_rex, NamedRegisters& registers) {
  uint32_t start;
  __builtin_memcpy(&start, &plan, sizeof start);
  const unsigned size = sizes[unsigned(plan.size)];
  const unsigned mask = plan.mask, is = mask >> 6;
  unsigned reg = (numbers[plan.source] & mask) | plan.reg, high = plan.high;
  if (size == 1 && reg - 4 < 4 && plan.kind == OperandKind::kGpr && !has_rex) reg -= 4, high = 1;  // AH CH DH BH
  static_assert(kPlanGpr == 1 << 6 && kPlanWritten == 2 << 6);
  registers.named |= ((is | is << 15) & 0x10001) << (reg & 15);
  registers.high |= high;
  const uint32_t rest = high | size << 16;
  uint8_t* to = reinterpret_cast<uint8_t*>(&o);
  __builtin_memcpy(to, &start, 4);
  to[3] = uint8_t(reg);
  __builtin_memcpy(to + 4, &rest, 4);
}

// The operands behind those that are planned: registers that no field names, and immediates.
void fill_others(Insn& out, const Row& row, const uint16_t* sizes) {
  for (unsigned i = kPlanOperands; i < row.operand_count; i++) {
    const OperandSpec spec = row.operands[i];
    const ClassInfo& info = kClasses.at[unsigned(spec.cls)];
    out.operands[i] = {info.kind, spec.access, info.field, uint8_t(spec.reg & info.mask), false, sizes[unsigned(spec.size)]};
  }
}

constexpr uint32_t kConditionFlags[8] = {kOF, kCF, kZF, kCF | kZF, kSF, kPF, kSF | kOF, kZF | kSF | kOF};  // by opcode >> 1 & 7

// What only some rows have. False: #UD.
constexpr uint32_t kRare = kCondition | kShiftCount | kRepeat | kAddressSized | kDistinct | kLegalRegister;
inline bool rare(uint32_t attributes, unsigned opcode, Insn& out) {
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
  if (attributes & kDistinct)
    for (unsigned i = 1; i < out.operand_count; i++)
      if (out.operands[i].kind == OperandKind::kVector && out.operands[i].reg == out.operands[0].reg) return false;
  if (attributes & kLegalRegister)
    for (const Operand& o : out.operands) {
      if (o.kind == OperandKind::kSegment && (o.reg > kGS || (o.reg == kCS && o.access == OperandAccess::kWrite))) return false;
      if (o.kind == OperandKind::kControl && !(0x11D >> o.reg & 1)) return false;
      if (o.kind == OperandKind::kDebug && o.reg > 7) return false;
    }
  return true;
}

// Blanks what is not filled in any case: by plain stores, which beat the string instruction a compiler takes for this size.
inline void blank(Operand& o) {
  constexpr uint64_t kZero = 0;
  __builtin_memcpy(static_cast<void*>(&o), &kZero, sizeof kZero);
}
[[gnu::always_inline]] inline void begin(Insn& out) {
  static_assert(sizeof(Insn) % 8 == 0);
  uint8_t* p = reinterpret_cast<uint8_t*>(&out);
  constexpr uint64_t kZero = 0;
  constexpr unsigned kFilled = (offsetof(Insn, operands) + 7) / 8 * 8, kFilledEnd = offsetof(Insn, operands[2]) / 8 * 8;
  constexpr unsigned kFlags = offsetof(Insn, flags_read);
  static_assert(kFlags % 8 == 0 && offsetof(Insn, flags_written) == kFlags + 4);
#pragma GCC unroll 64
  for (unsigned i = 0; i < sizeof(Insn); i += 8)
    if ((i < kFilled || i >= kFilledEnd) && i != kFlags) __builtin_memcpy(p + i, &kZero, 8);
  out.segment_prefix = kNoRegister;
  out.base = kNoRegister;
  out.index = kNoRegister;
  out.scale = 1;
  out.segment = kDS;
}

// From the opcode on: `c` is behind it. `prefixed`: with others than REX, which are in `x` and noted in `out`. `brief`: operands, and the bytes, may be left out.
template <bool mode64, bool prefixed, bool brief>
[[gnu::always_inline]] inline DecodeStatus decode_opcode(Cursor c, const uint8_t* bytes, unsigned map, unsigned opcode, unsigned rex, const Prefixes& x, CodeMode mode, Insn& out, InsnShape& shape) {
  const bool addrsize = prefixed && x.addrsize;
  bool opsize = prefixed && x.opsize;
  const unsigned prefix = !prefixed ? 0 : x.rep ? 2 : x.repne ? 3 : x.opsize ? 1 : 0;
  const Extensions extend{.r = rex << 1 & 8, .x = rex << 2 & 8, .b = rex << 3 & 8};
  const bool w = rex & 8;
  out.mode = mode;
  out.map = OpcodeMap(map);
  out.rex = uint8_t(rex);
  out.w = w;
  out.opcode = uint8_t(opcode);

  // The row.
  const OpcodeRows rows = kOpcodeMaps.at[map][opcode];
  unsigned index = 0, modrm = 0xff, reg = 0, rm = 0;
  if (rows.choices & kHasModrm) {
    if (!c.has(1)) return c.ended();
    modrm = *c.p++;
    reg = (modrm >> 3 & 7) | extend.r;
    rm = (modrm & 7) | extend.b;
    out.has_modrm = true;
    out.modrm = uint8_t(modrm);
    out.reg = uint8_t(reg);
    out.rm = uint8_t(rm);
  }
  if (rows.choices & ~kHasModrm) {
    if (rows.choices & kByPrefix) index = prefix;
    if (rows.choices & kByMod) index = index << 1 | (modrm >= 0xC0);
    if (rows.choices & kByReg) index = index << 3 | (modrm >> 3 & 7);
    if (rows.choices & kByRm) index = index << 3 | (modrm & 7);
    if (rows.choices & (kByW | kByLength | kByMode)) {
      if (rows.choices & kByW) index = index << 1 | w;
      if (rows.choices & kByLength) index = index << 2;
      if (rows.choices & kByMode) index = index << 1 | mode64;
    }
  }
  unsigned row = kRowNumbers[rows.base + index];
  if (prefixed && opcode == 0x90)
    if (extend.b && map == kLegacyOneByte) row = kRowNumbers[kOpcodeMaps.at[kLegacyOneByte][0x91].base];  // xchg r8, rAX
  if (row == 0) [[unlikely]] return DecodeStatus::kInvalid;
  const RowPlan& plan = kRowPlans[row];
  const uint32_t attributes = plan.attributes;
  out.mnemonic = plan.mnemonic;
  out.form = plan.form;
  out.feature = uint16_t(plan.feature);
  const FlagEffect& flags = kFlagEffects[plan.flags];
  out.flags_read = flags.read;
  out.flags_written = flags.written;
  out.flags_maybe = flags.maybe;

  // Sizes.
  if (plan.prefixes) {
    out.mandatory_prefix = !(plan.prefixes & 1) && (prefix != 1 || plan.prefixes == 2);
    if (!mode64 && plan.prefixes == 2) opsize = false;
  }
  const unsigned address_size = mode64 ? addrsize ? 4 : 8 : (mode == CodeMode::k16) != addrsize ? 2 : 4;
  const unsigned log = mode64 ? plan.logs >> (2 * unsigned{w} | 4 * unsigned{opsize}) & 3 : (mode == CodeMode::k16) != opsize ? 1 : 2;
  out.address_size = uint8_t(address_size);
  out.operand_size = uint8_t(1u << log);

  const bool is_memory = modrm < 0xC0 && !(attributes & kModIgnored);
  if (prefixed && x.lock && (!(attributes & kLock) || !is_memory)) return DecodeStatus::kInvalid;
  if (is_memory) {
    if (const DecodeStatus status = decode_memory(c, out, modrm, address_size, mode64, extend, false); status != DecodeStatus::kOk) return status;
    if (attributes & kSpecialMemory) out.form = Form::kSpecial;
  }
  if (plan.immediate != ImmediateKind::kNone)
    if (const DecodeStatus status = decode_immediate(c, out, plan.immediate, log); status != DecodeStatus::kOk) return status;
  if (prefixed && x.segment != kNoRegister) out.segment = x.segment;

  if (brief && !(attributes & kRare & ~kCondition)) {
    if (attributes & kCondition) out.flags_read = kConditionFlags[opcode >> 1 & 7];
    out.length = uint8_t(c.p - bytes);
    return DecodeStatus::kOk;
  }

  // Operands.
  uint8_t numbers[kSources];
  numbers[kFromSpec] = 0;
  numbers[kFromReg] = uint8_t(reg);
  numbers[kFromRm] = uint8_t(rm);
  numbers[kFromLow3] = uint8_t((opcode & 7) | extend.b);
  const uint16_t* sizes = kSizes.at[legacy_context(log, mode64)];
  const OperandPlan* planned = plan.operands[is_memory];
  const unsigned count = plan.operand_count;
  out.operand_count = uint8_t(count);
  // Two always, without a branch; what a plan has none for becomes an empty one.
  NamedRegisters registers;
  fill_operand(out.operands[0], planned[0], numbers, sizes, rex, registers);
  fill_operand(out.operands[1], planned[1], numbers, sizes, rex, registers);
  if (count > 2) [[unlikely]] fill_operand(out.operands[2], planned[2], numbers, sizes, rex, registers);
  shape.traits = plan.traits;
  shape.memory = plan.memory[is_memory];
  shape.named = uint16_t(registers.named);
  shape.written = uint16_t(registers.named >> 16);
  shape.high = uint8_t(registers.high);
  shape.displaced = 0;
  if (registers.named & InsnShape::kDisplaced || count > kPlanOperands) [[unlikely]] {
    fill_others(out, kRows[row], sizes);
    shape = InsnShape::of(out);
  }
  if (attributes & kRare && !rare(attributes, opcode, out)) return DecodeStatus::kInvalid;
  note_bytes(out, bytes, c.size, unsigned(c.p - bytes));
  return DecodeStatus::kOk;
}

// Behind prefixes there may be every map. False: the bytes end.
struct Opcode {
  unsigned map, byte;
};
inline bool take_opcode(Cursor& c, Opcode& out) {
  if (!c.has(1)) return false;
  out = {kLegacy0F, *c.p++};
  if (out.byte == 0x38 || out.byte == 0x3A) [[unlikely]] {
    if (!c.has(1)) return false;
    out = {out.byte == 0x38 ? unsigned{kLegacy0F38} : unsigned{kLegacy0F3A}, *c.p++};
  }
  return true;
}

// What begins with another prefix than REX, or with that of VEX and EVEX; and NOP.
template <bool mode64>
[[gnu::noinline]] DecodeStatus decode_prefixed(const uint8_t* bytes, size_t size, CodeMode mode, Insn& out, InsnShape& shape) {
  const uint8_t* classes = kByteClasses.at[mode64];
  Cursor c{bytes, bytes + size, size};
  const Prefixes x = take_prefixes(c, classes, mode64);
  out.mode = mode;
  out.lock = x.lock;
  out.rep = x.rep;
  out.repne = x.repne;
  out.opsize = x.opsize;
  out.addrsize = x.addrsize;
  out.segment_prefix = x.segment;
  if (!c.has(1)) return c.ended();
  Opcode opcode{kLegacyOneByte, *c.p++};
  const unsigned cls = classes[opcode.byte];
  if (cls == kEscape) {
    if (!take_opcode(c, opcode)) return c.ended();
  } else if (cls == kVectorPrefix) {
    // In 16- and 32-bit modes these are LES, LDS and BOUND unless the modrm byte they would have names a register.
    if (!mode64 && !c.has(1)) return c.ended();
    if (mode64 || *c.p >= 0xC0) {
      out.rex = x.rex;
      for (Operand& o : out.operands) blank(o);
      out.flags_read = out.flags_written = 0;
      const DecodeStatus status = decode_vector(c, bytes, opcode.byte, mode64, x.segment, out);
      shape = InsnShape::of(out);
      return status;
    }
  }
  return decode_opcode<mode64, true, false>(c, bytes, opcode.map, opcode.byte, x.rex, x, mode, out, shape);
}

template <bool mode64, bool brief>
DecodeStatus decode_in(const uint8_t* bytes, size_t size, CodeMode mode, Insn& out, InsnShape& shape) {
  begin(out);
  if (size > kMaxInsnLength) [[likely]] size = kMaxInsnLength;
  if (size < 2) [[unlikely]] return decode_prefixed<mode64>(bytes, size, mode, out, shape);  // looks at no byte that was not given
  const uint8_t* classes = kByteClasses.at[mode64];
  Cursor c{bytes, bytes + size, size};
  const bool has_rex = classes[*c.p] == kRexPrefix;
  const unsigned rex = *c.p & -unsigned{has_rex};  // without a branch: of a 64-bit program's instructions half have it
  c.p += has_rex;
  Opcode opcode{kLegacyOneByte, *c.p++};
  if (const unsigned cls = classes[opcode.byte]; cls != kOpcodeByte) {
    if (cls != kEscape) return decode_prefixed<mode64>(bytes, size, mode, out, shape);
    if (!take_opcode(c, opcode)) return c.ended();
  }
  return decode_opcode<mode64, false, brief>(c, bytes, opcode.map, opcode.byte, rex, {}, mode, out, shape);
}

}  // namespace

DecodeStatus decode(const uint8_t* bytes, size_t size, CodeMode mode, Insn& out, InsnShape& shape) {
  return mode == CodeMode::k64 ? decode_in<true, false>(bytes, size, mode, out, shape) : decode_in<false, false>(bytes, size, mode, out, shape);
}

void blank(Insn& out) {
  begin(out);
  for (Operand& o : out.operands) blank(o);
  out.flags_read = out.flags_written = 0;
}

DecodeStatus decode_effects(const uint8_t* bytes, size_t size, CodeMode mode, Insn& out) {
  InsnShape shape;
  return mode == CodeMode::k64 ? decode_in<true, true>(bytes, size, mode, out, shape) : decode_in<false, false>(bytes, size, mode, out, shape);
}

DecodeStatus decode(const uint8_t* bytes, size_t size, CodeMode mode, Insn& out) {
  InsnShape shape;
  return decode(bytes, size, mode, out, shape);
}

}  // namespace vireo::softkvm
