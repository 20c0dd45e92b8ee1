// SPDX-License-Identifier: Apache-2.0
// Spec: Intel SDM vol 2, 2.1 (legacy), 2.3 (VEX), 2.7 (EVEX).
#include "softkvm/translate/reencode.h"

namespace vireo::softkvm {
namespace {

// Index of the first byte behind legacy prefixes (and REX).
unsigned prefix_length(const Insn& insn) {
  unsigned i = 0;
  for (; i < insn.length; i++) {
    uint8_t b = insn.bytes[i];
    bool prefix = b == 0x26 || b == 0x2e || b == 0x36 || b == 0x3e || (b >= 0x64 && b <= 0x67) || b == 0xf0 || b == 0xf2 || b == 0xf3 ||
                  (insn.mode == CodeMode::k64 && (b & 0xf0) == 0x40);
    if (!prefix) break;
  }
  return i;
}

void modrm(Emitter& out, const Insn& insn, const Rename& rename) {
  unsigned reg = rename.reg >= 0 ? rename.reg & 7 : insn.modrm >> 3 & 7;
  if (rename.memory >= 0) {
    const unsigned base = reg << 3 | (rename.memory & 7);  // never 4 or 5: plain [base]
    if (!rename.displacement) return out.u8(base);
    // EVEX counts a displacement of one byte in units.
    if (insn.encoding != Encoding::kEvex && rename.displacement == static_cast<int8_t>(rename.displacement))
      return out.u8(0x40 | base), out.u8(static_cast<uint8_t>(rename.displacement));
    out.u8(0x80 | base);
    out.u32(static_cast<uint32_t>(rename.displacement));
  } else if (rename.slot) {
    out.bytes({static_cast<uint8_t>(reg << 3 | 4), 0x25});
    out.u32(rename.slot);
  } else {
    unsigned rm = rename.rm >= 0 ? rename.rm & 7 : insn.modrm & 7;
    out.u8(0xc0 | reg << 3 | rm);
  }
}

void immediates(Emitter& out, const Insn& insn) {
  unsigned n = insn.immediate_size + insn.immediate2_size;
  for (unsigned i = 0; i < insn.operand_count; i++)
    if (insn.operands[i].field == OperandField::kIs4 && insn.mode != CodeMode::k64) return out.u8(insn.bytes[insn.length - 1] & 0x7f);
  out.put(insn.bytes + insn.length - n, n);
}

bool wants_66(const Insn& insn) {
  if (insn.mode == CodeMode::k64 || (insn.mandatory_prefix && !insn.rep && !insn.repne)) return insn.opsize;
  bool vector = false, word = false;
  for (unsigned i = 0; i < insn.operand_count; i++) {
    const Operand& o = insn.operands[i];
    vector |= o.kind == OperandKind::kMmx || o.kind == OperandKind::kVector || o.kind == OperandKind::kX87 || o.kind == OperandKind::kMask;
    word |= o.size == 2 && (o.kind == OperandKind::kGpr || o.kind == OperandKind::kMemory);
  }
  if (vector) return insn.opsize;
  bool x87 = insn.map == OpcodeMap::kOneByte && insn.opcode >= 0xd8 && insn.opcode <= 0xdf;
  return !x87 && word && insn.operand_size == 2;
}

void legacy(Emitter& out, const Insn& insn, const Rename& rename) {
  if (insn.lock) out.u8(0xf0);
  if (rename.slot) out.u8(0x65);
  if (wants_66(insn)) out.u8(0x66);
  if (insn.mandatory_prefix && insn.repne) out.u8(0xf2);
  if (insn.mandatory_prefix && insn.rep && !insn.repne) out.u8(0xf3);

  unsigned r = rename.reg >= 0 ? rename.reg >> 3 & 1 : insn.rex >> 2 & 1;
  unsigned b = rename.memory >= 0 ? rename.memory >> 3 & 1
               : rename.slot      ? 0
               : rename.rm >= 0   ? rename.rm >> 3 & 1
               : rename.low3 >= 0 ? rename.low3 >> 3 & 1
                                  : insn.rex & 1;
  unsigned rex = (insn.w ? 8 : 0) | r << 2 | b;
  bool need = false;
  for (unsigned i = 0; i < insn.operand_count; i++) {
    const Operand& o = insn.operands[i];
    if (o.kind != OperandKind::kGpr || o.size != 1 || o.high) continue;
    if (o.field != OperandField::kModrmReg && o.field != OperandField::kModrmRm && o.field != OperandField::kOpcodeLow3) continue;
    int host = o.field == OperandField::kModrmReg ? rename.reg : o.field == OperandField::kModrmRm ? rename.rm : rename.low3;
    if (host < 0) host = o.reg;
    need |= host >= 4 && host <= 7;
  }
  if (rex || need) out.u8(0x40 | rex);

  unsigned opcode = rename.opcode >= 0 ? static_cast<unsigned>(rename.opcode) : insn.opcode;
  if (insn.mode != CodeMode::k64 && insn.map == OpcodeMap::kOneByte && opcode >= 0x40 && opcode <= 0x4f) {
    // INC and DEC by opcode became REX prefixes: FF /0 and /1.
    out.bytes({0xff, static_cast<uint8_t>(0xc0 | (opcode >= 0x48 ? 8 : 0) | ((rename.low3 >= 0 ? static_cast<unsigned>(rename.low3) : opcode) & 7))});
    return;
  }
  if (opcode == 0x82 && insn.map == OpcodeMap::kOneByte) opcode = 0x80;  // its alias, gone in 64-bit mode
  if (insn.map != OpcodeMap::kOneByte) out.u8(0x0f);
  if (insn.map == OpcodeMap::k0F38) out.u8(0x38);
  if (insn.map == OpcodeMap::k0F3A) out.u8(0x3a);
  if (rename.low3 >= 0) opcode = (opcode & ~7u) | (rename.low3 & 7);
  out.u8(opcode);
  if (insn.has_modrm) modrm(out, insn, rename);
  immediates(out, insn);
}

// Does W only select a 64-bit general register or its like in memory? Outside of 64-bit mode it is ignored then.
bool w_is_operand_size(const Insn& insn) {
  switch (insn.mnemonic) {
    case Mnemonic::kVmovd:
    case Mnemonic::kVpextrd:
    case Mnemonic::kVpinsrd:
    case Mnemonic::kVcvtsi2sd:
    case Mnemonic::kVcvtsi2ss:
    case Mnemonic::kVcvtsi2sh:
    case Mnemonic::kVcvtusi2sd:
    case Mnemonic::kVcvtusi2ss:
    case Mnemonic::kVcvtusi2sh: return true;
    default: break;
  }
  for (unsigned i = 0; i < insn.operand_count; i++)
    if (insn.operands[i].kind == OperandKind::kGpr) return true;
  return false;
}

void vex(Emitter& out, const Insn& insn, const Rename& rename) {
  const uint8_t* p = insn.bytes + prefix_length(insn);
  bool two = p[0] == 0xc5;
  unsigned r = rename.reg >= 0 ? rename.reg >> 3 & 1 : (~p[1] >> 7 & 1);
  const bool extended = insn.mode == CodeMode::k64;  // B and vvvv's high bit are ignored elsewhere
  unsigned b = rename.memory >= 0 ? rename.memory >> 3 & 1 : rename.rm >= 0 ? rename.rm >> 3 & 1 : two || !extended ? 0 : (~p[1] >> 5 & 1);
  unsigned map = two ? 1 : p[1] & 0x1f;
  unsigned last = two ? (p[1] & 0x7f) : p[2];  // W vvvv L pp
  if (!extended) last |= 0x40;
  if (!extended && w_is_operand_size(insn)) last &= 0x7f;
  if (rename.vvvv >= 0) last = (last & ~0x78u) | (~rename.vvvv & 15u) << 3;
  out.u8(0xc4);
  out.u8((r ^ 1) << 7 | 0x40 | (b ^ 1) << 5 | map);
  out.u8(last);
  out.u8(insn.opcode);
  if (insn.has_modrm) modrm(out, insn, rename);
  immediates(out, insn);
}

void evex(Emitter& out, const Insn& insn, const Rename& rename) {
  const uint8_t* p = insn.bytes + prefix_length(insn);
  unsigned p0 = p[1], p1 = p[2], p2 = p[3];
  if (insn.mode != CodeMode::k64) p0 |= 0xf0, p1 |= 0x40;  // ignored: B, R' and vvvv's high bit
  if (insn.mode != CodeMode::k64 && w_is_operand_size(insn)) p1 &= 0x7f;
  if (rename.reg >= 0) p0 = (p0 & ~0x90u) | 0x10 | (rename.reg & 8 ? 0 : 0x80);
  if (rename.memory >= 0)
    p0 = (p0 & ~0x60u) | 0x40 | (rename.memory & 8 ? 0 : 0x20);
  else if (rename.rm >= 0)
    p0 = (p0 & ~0x60u) | 0x40 | (rename.rm & 8 ? 0 : 0x20);
  if (rename.vvvv >= 0) {
    p1 = (p1 & ~0x78u) | (~rename.vvvv & 15u) << 3;
    p2 |= 8;
  }
  out.bytes({0x62, static_cast<uint8_t>(p0), static_cast<uint8_t>(p1), static_cast<uint8_t>(p2)});
  out.u8(insn.opcode);
  modrm(out, insn, rename);
  immediates(out, insn);
}

// Of the legacy encodings in 64-bit mode, with registers as they are: most of what there is.
void copy_registers(Emitter& out, const Insn& insn) {
  // As it stands, where no prefix comes before REX, and REX has what counts and no more.
  const unsigned rex = insn.rex, at = rex != 0;
  const unsigned first = insn.map == OpcodeMap::kOneByte ? insn.opcode : 0x0f;
  if (insn.bytes[at] != first || (rex && (insn.bytes[0] != rex || rex & 2 || rex == 0x40))) return legacy(out, insn, Rename{});
  out.put_short(insn.bytes, insn.length);
}

void copy_with_memory(Emitter& out, const Insn& insn, unsigned base, int32_t displacement) {
  const unsigned rex = 0x40 | (insn.w ? 8 : 0) | (insn.rex & 4) | base >> 3;
  const unsigned immediates = insn.immediate_size + insn.immediate2_size;
  uint8_t* p = out.at();
  auto put = [&p](bool there, unsigned byte) {
    *p = static_cast<uint8_t>(byte);
    p += there;
  };
  if (insn.lock | insn.opsize | insn.mandatory_prefix) [[unlikely]] {
    put(insn.lock, 0xf0);
    put(insn.opsize, 0x66);
    put(insn.mandatory_prefix && insn.repne, 0xf2);
    put(insn.mandatory_prefix && insn.rep && !insn.repne, 0xf3);
  }
  put(rex != 0x40, rex);
  if (insn.map != OpcodeMap::kOneByte) [[unlikely]] {
    put(true, 0x0f);
    put(insn.map == OpcodeMap::k0F38, 0x38);
    put(insn.map == OpcodeMap::k0F3A, 0x3a);
  }
  p[0] = insn.opcode;
  const unsigned size = Emitter::displacement_size(base, displacement);
  p[1] = static_cast<uint8_t>(Emitter::kMod[size] << 6 | (insn.modrm & 0x38) | (base & 7));
  __builtin_memcpy(p + 2, &displacement, 4);
  p += 2 + size;
  __builtin_memcpy(p, insn.bytes + insn.length - immediates, 8);  // of which as many count as there are
  out.go_to(p + immediates);
}

}  // namespace

void zero_register(Emitter& out, unsigned r, bool all) {
  if (all) out.bytes({0xc5, static_cast<uint8_t>(0x80 | (~r & 15) << 3), 0x57, static_cast<uint8_t>(0xc0 | r << 3 | r)});  // vxorps
  else out.bytes({0xc5, 0xf8, 0x28, static_cast<uint8_t>(0xc0 | r << 3 | r)});                                           // vmovaps
}

RegisterInMemory register_in_memory(const Insn& insn) {
  if (insn.encoding != Encoding::kLegacy || !insn.has_modrm) return {};
  const uint8_t op = insn.opcode;
  const unsigned extension = insn.modrm >> 3 & 7;
  if (insn.map == OpcodeMap::k0F) return {.rm = (op & 0xf0) == 0x40 || op == 0xaf || (op & 0xf6) == 0xb6};  // CMOVcc; IMUL; MOVZX, MOVSX
  if (insn.map != OpcodeMap::kOneByte) return {};
  if (op < 0x40) return {true, true, static_cast<uint8_t>(op ^ 2)};  // ADD to CMP
  switch (op) {
    case 0x84:
    case 0x85: return {true, true, op};                              // TEST
    case 0x88:
    case 0x89:
    case 0x8a:
    case 0x8b: return {true, true, static_cast<uint8_t>(op ^ 2)};    // MOV
    case 0x63:                                                       // MOVSXD
    case 0x69:
    case 0x6b:                                                       // IMUL
    case 0x80:
    case 0x81:
    case 0x83:                                                       // group 1
    case 0xc0:
    case 0xc1:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3: return {.rm = true};                                  // shifts
    case 0xc7: return {.rm = extension == 0};                        // MOV
    case 0xf6:
    case 0xf7: return {.rm = extension < 6};                         // TEST, NOT, NEG, MUL, IMUL; DIV may fault
    case 0xfe:
    case 0xff: return {.rm = extension < 2};                         // INC, DEC
    default: return {};
  }
}

void reencode_as_it_is(Emitter& out, const Insn& insn) {
  if (insn.encoding == Encoding::kLegacy && insn.mode == CodeMode::k64) copy_registers(out, insn);
  else reencode(out, insn, Rename{});
}

void reencode_as_it_is(Emitter& out, const Insn& insn, unsigned base, int32_t displacement) {
  if (insn.encoding == Encoding::kLegacy && insn.mode == CodeMode::k64) copy_with_memory(out, insn, base, displacement);
  else reencode(out, insn, Rename{.memory = static_cast<int>(base), .displacement = displacement});
}

void reencode(Emitter& out, const Insn& insn, const Rename& rename) {
  switch (insn.encoding) {
    case Encoding::kLegacy: return legacy(out, insn, rename);
    case Encoding::kVex: return vex(out, insn, rename);
    case Encoding::kEvex: return evex(out, insn, rename);
  }
}

}  // namespace vireo::softkvm
