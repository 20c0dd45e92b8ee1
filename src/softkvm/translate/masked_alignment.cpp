// SPDX-License-Identifier: Apache-2.0
// FAST. Intel: SDM vol 3, 6.15 (#AC) and vol 2, 2.8 (exception types); vectors are not checked. AMD: APM vol 2, 8.2.18; measured on family 26: with
// fault suppression by the element, without, or with no mask named (VPCOMPRESS, VPEXPAND), by 16 bytes, AVX's masked moves not at all.
#include "softkvm/translate/masked_alignment.h"

namespace vireo::softkvm {
namespace {

bool starts(const char*& at, const char* with) {
  const char* p = at;
  for (; *with; p++, with++)
    if (*p != *with) return false;
  at = p;
  return true;
}

// Exception types E4NF, E5NF and E6NF: the whole operand is read or written, whatever the mask.
bool without_fault_suppression(const Insn& insn) {
  static constexpr const char* kNames[] = {"vpunpck", "vunpck", "vpack", "vmovddup", "vmovshdup", "vmovsldup", "vperm", "vshuf", "vpalignr", "valign",
                                           "vpmultishift", "vgf2p8affine", "vdbpsadbw", "vpmaddwd", "vpmaddubsw", "vinsert", "vextract", "vpconflict", "vcvtne2ps2bf16"};
  const char* name = mnemonic_name(insn.mnemonic);
  for (const char* n : kNames)
    if (const char* at = name; starts(at, n)) return true;
  if (const char* at = name; starts(at, "vpshuf")) return *at != 'b' || !at[1];  // not VPSHUFBITQMB
  // Shifts by a count in memory.
  return insn.map == OpcodeMap::k0F && insn.opcode >= 0xd1 && insn.opcode <= 0xf3 && insn.operands[2].kind == OperandKind::kMemory &&
         (starts(name, "vpsll") || starts(name, "vpsrl") || starts(name, "vpsra"));
}

unsigned of_letter(char c) { return c == 'b' ? 0 : c == 'w' ? 1 : c == 'q' ? 3 : 2; }

// PS, PD, PH and their scalars; DQ and QQ, signed or not.
unsigned of_type(const char* at) {
  if (*at == 'u') at++;
  if (*at == 'w') return 1;
  if (*at == 'd') return 2;
  if (*at == 'q') return 3;
  return at[1] == 'd' ? 3 : at[1] == 'h' ? 1 : 2;
}

// The elements in memory, by the instruction's name.
unsigned element(const Insn& insn) {
  const char* name = mnemonic_name(insn.mnemonic);
  if (const char* at = name; starts(at, "vpmovsx") || starts(at, "vpmovzx")) return of_letter(*at);
  if (const char* at = name; starts(at, "vbroadcastf") || starts(at, "vbroadcasti")) return *at == '6' ? 3 : 2;
  if (const char* at = name; starts(at, "vcvt")) {
    if (insn.operands[0].kind == OperandKind::kMemory) return 1;  // VCVTPS2PH
    if (!starts(at, "ne2") && !starts(at, "ne")) starts(at, "t");
    return of_type(at);
  }
  const char* end = name;
  while (*end) end++;
  switch (end[-1]) {
    case '8': return 0;  // VMOVDQU8 to VMOVDQU64
    case '6': return 1;
    case '2': return 2;
    case '4': return 3;
    default: break;
  }
  if (name[1] != 'p' && end[-2] != 'l') return of_type(end - 2);
  return of_letter(end[-1]);
}

}  // namespace

unsigned masked_alignment(const Insn& insn, bool amd) {
  const Operand* mem = insn.memory_operand();
  const unsigned size = mem ? mem->size : 0;
  const unsigned whole = size == 2 ? 1 : size == 4 ? 2 : size == 8 ? 3 : size >= 16 && amd ? 4 : 0;
  if (!amd) {
    const bool half_precision = insn.mnemonic == Mnemonic::kVcvtph2ps || insn.mnemonic == Mnemonic::kVcvtps2ph;  // types 11 and E11
    return half_precision ? 0 : whole;
  }
  if (insn.encoding != Encoding::kEvex) return 0;
  return insn.evex_b || !insn.opmask || without_fault_suppression(insn) ? whole : element(insn);
}

}  // namespace vireo::softkvm
