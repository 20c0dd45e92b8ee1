// SPDX-License-Identifier: Apache-2.0
// The decoder's half for VEX and EVEX. Spec: Intel SDM vol 2, 2.3 (VEX), 2.7 (EVEX).
#include "softkvm/cpu/decode_pieces.h"
#include "softkvm/cpu/decode_tables.h"
#include "softkvm/cpu/decode_words.h"

namespace vireo::softkvm {
namespace {

using words::kFlagEffects;

struct Decoder {
  Cursor c;
  Insn& out;
  const bool mode64;
  Extensions extend{};
  uint8_t rounding = 0;  // EVEX.L'L

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
};

DecodeStatus Decoder::vex2() {
  if (!c.has(2)) return c.ended();
  if (prefixed()) return DecodeStatus::kInvalid;
  const uint8_t b = *c.p++;
  out.encoding = Encoding::kVex;
  out.map = OpcodeMap::k0F;
  if (mode64) extend.r = b & 0x80 ? 0 : 8;
  out.vvvv = ~b >> 3 & 15;
  rounding = b >> 2 & 1;
  set_prefix(b & 3);
  return DecodeStatus::kOk;
}

DecodeStatus Decoder::vex3() {
  if (!c.has(3)) return c.ended();
  if (prefixed()) return DecodeStatus::kInvalid;
  const uint8_t a = *c.p++, b = *c.p++;
  out.encoding = Encoding::kVex;
  if (mode64) {
    extend.r = a & 0x80 ? 0 : 8;
    extend.x = a & 0x40 ? 0 : 8;
    extend.b = a & 0x20 ? 0 : 8;
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
  if (!c.has(4)) return c.ended();
  if (prefixed()) return DecodeStatus::kInvalid;
  const uint8_t a = *c.p++, b = *c.p++, third = *c.p++;
  out.encoding = Encoding::kEvex;
  const unsigned map = a & 7;
  if (a & 8 || !(b & 4) || map == 0 || map == 4 || map == 7) return DecodeStatus::kInvalid;
  if (mode64) {
    extend.r = a & 0x80 ? 0 : 8;
    extend.x = a & 0x40 ? 0 : 8;
    extend.b = a & 0x20 ? 0 : 8;
    extend.rr = a & 0x10 ? 0 : 16;
  }
  extend.vv = third & 8 ? 0 : 16;
  if (!mode64 && extend.vv) return DecodeStatus::kInvalid;
  out.map = map < 4 ? OpcodeMap(map) : map == 5 ? OpcodeMap::kMap5 : OpcodeMap::kMap6;
  out.w = b >> 7;
  out.vvvv = (~b >> 3 & 15) | extend.vv;
  set_prefix(b & 3);
  out.zeroing = third >> 7;
  rounding = third >> 5 & 3;
  out.evex_b = third >> 4 & 1;
  out.opmask = third & 7;
  return DecodeStatus::kOk;
}

}  // namespace

DecodeStatus decode_vector(Cursor cursor, const uint8_t* bytes, unsigned first, bool mode64, uint8_t segment, Insn& out) {
  Decoder d{.c = cursor, .out = out, .mode64 = mode64};
  DecodeStatus status = first == 0xC5 ? d.vex2() : first == 0xC4 ? d.vex3() : d.evex();
  if (status != DecodeStatus::kOk) return status;
  Cursor c{d.c.p, cursor.end, cursor.size};
  const Extensions extend = d.extend;
  const unsigned map = (out.encoding == Encoding::kVex ? kVex0F : kEvex0F) + unsigned(out.map) - 1;
  const uint8_t opcode = *c.p++;
  out.opcode = opcode;

  // The row.
  const OpcodeRows rows = kOpcodeMaps.at[map][opcode];
  unsigned index = 0;
  if (rows.choices) {
    unsigned mod = 0;
    if (rows.choices & kHasModrm) {
      if (!c.has(1)) return c.ended();
      out.has_modrm = true;
      out.modrm = *c.p++;
      mod = out.modrm >= 0xC0;
      out.reg = uint8_t((out.modrm >> 3 & 7) | extend.r | extend.rr);
      out.rm = uint8_t((out.modrm & 7) | extend.b);
    }
    if (rows.choices & kByPrefix) index = out.rep ? 2 : out.repne ? 3 : out.opsize ? 1 : 0;
    if (rows.choices & kByMod) index = index << 1 | mod;
    if (rows.choices & kByReg) index = index << 3 | (out.modrm >> 3 & 7);
    if (rows.choices & kByRm) index = index << 3 | (out.modrm & 7);
    if (rows.choices & kByW) index = index << 1 | out.w;
    // With static rounding the length bits are the rounding mode and the length is 512 bits.
    if (rows.choices & kByLength) index = index << 2 | (out.evex_b && mod ? 2 : d.rounding);
    if (rows.choices & kByMode) index = index << 1 | mode64;
  }
  const unsigned number = kRowNumbers[rows.base + index];
  if (number == 0) return DecodeStatus::kInvalid;
  const Row& row = kRows[number];
  const uint32_t attributes = row.attributes;
  out.mnemonic = row.mnemonic;
  out.form = row.form;
  out.feature = uint16_t(row.feature);

  unsigned log;
  if (mode64) {
    out.address_size = out.addrsize ? 4 : 8;
    log = out.w || attributes & kForce64 || attributes & kDefault64 ? 3 : 2;
  } else {
    out.address_size = (out.mode == CodeMode::k16) != out.addrsize ? 2 : 4;
    log = out.mode == CodeMode::k16 ? 1 : 2;
  }
  out.operand_size = uint8_t(1u << log);

  const bool is_memory = out.has_modrm && out.modrm < 0xC0 && !(attributes & kModIgnored);
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
    if (!is_memory) out.rm |= extend.x << 1;
    if (length == 3) return DecodeStatus::kInvalid;
    if (attributes & kScalar) length = 0;
  } else if (attributes & kAvx2If256 && length == 1) {
    out.feature = uint16_t(Feature::kAvx2);
  }
  out.vector_length = uint8_t(16u << length);
  if (!mode64) out.vvvv &= 7;

  if (is_memory) {
    status = decode_memory(c, out, out.modrm, out.address_size, mode64, extend, attributes & kNo16Mode);
    if (status != DecodeStatus::kOk) return status;
    if (attributes & kSpecialMemory) out.form = Form::kSpecial;
  }
  uint8_t is4 = 0;
  if (attributes & kIs4) {
    if (!c.has(1)) return c.ended();
    out.immediate = *c.p++;
    out.immediate_size = 1;
    is4 = uint8_t(out.immediate >> 4) & (mode64 ? 15 : 7);
  } else if (row.immediate != ImmediateKind::kNone) {
    status = decode_immediate(c, out, row.immediate, log);
    if (status != DecodeStatus::kOk) return status;
  }
  if (segment != kNoRegister) out.segment = segment;

  // Operands.
  const uint8_t numbers[kSources] = {0, out.reg, out.rm, out.vvvv, uint8_t((opcode & 7) | extend.b), is4};
  const uint16_t* sizes = kSizes.at[vector_context(length, out.w && mode64)];
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
    if (o.kind == OperandKind::kGpr && o.size == 1 && reg - 4 < 4) {
      o.reg -= 4;
      o.high = true;
    }
  }
  if (row.flags) {
    const FlagEffect& f = kFlagEffects[row.flags];
    out.flags_read = f.read;
    out.flags_written = f.written;
    out.flags_maybe = f.maybe;
  }
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
  if (attributes & kAddressSized) out.operands[0].size = out.address_size;
  note_bytes(out, bytes, cursor.size, unsigned(c.p - bytes));
  return DecodeStatus::kOk;
}

}  // namespace vireo::softkvm
