// SPDX-License-Identifier: Apache-2.0
// Spec: Intel SDM vol 2, appendix A (opcode maps) and B; AMD APM vol 3, appendix A. What is not here: everything privileged, everything
// that enters the host's kernel or changes its view of the thread (syscall, int, in, out, segment loads, FS and GS base, PKRU, XSAVE
// areas, shadow stacks, user interrupts, key locker, AMX), everything with many or implicit addresses, stack instructions, hints.
#include "softkvm/translate/verifier_allow.h"

namespace vireo::softkvm {
namespace {

struct Range {
  uint8_t first, last;
};

// ALU; MOVSXD, IMUL; groups 1, TEST, XCHG, MOV; XCHG with rAX (and NOP), CBW, CWD, FWAIT; SAHF, LAHF; TEST, MOV immediate; shifts; x87;
// JMP, Jcc (JE rel8 alone) and JrCXZ for the emitter; CMC, group 3, CLC, STC; groups 4 and 5.
constexpr Range kOneByte[] = {{0x00, 0x05}, {0x08, 0x0d}, {0x10, 0x15}, {0x18, 0x1d}, {0x20, 0x25}, {0x28, 0x2d}, {0x30, 0x35},
                              {0x38, 0x3d}, {0x63, 0x63}, {0x69, 0x69}, {0x6b, 0x6b}, {0x74, 0x74}, {0x80, 0x81}, {0x83, 0x8b}, {0x8d, 0x8d},
                              {0x90, 0x99}, {0x9b, 0x9b}, {0x9e, 0x9f}, {0xa8, 0xa9}, {0xb0, 0xc1}, {0xc6, 0xc7}, {0xd0, 0xd3},
                              {0xd8, 0xdf}, {0xe3, 0xe3}, {0xe9, 0xe9}, {0xeb, 0xeb}, {0xf5, 0xf9}, {0xfe, 0xff}};
constexpr Range k0F[] = {{0x0b, 0x0b}, {0x10, 0x17}, {0x1f, 0x1f}, {0x28, 0x2f}, {0x40, 0x70}, {0x71, 0x79}, {0x7c, 0x9f},
                         {0xa3, 0xa5}, {0xab, 0xaf}, {0xb0, 0xb1}, {0xb3, 0xb3}, {0xb6, 0xb8}, {0xba, 0xc7}, {0xc8, 0xfe}};
constexpr Range k0F38[] = {{0x00, 0x0b}, {0x10, 0x10}, {0x14, 0x15}, {0x17, 0x17}, {0x1c, 0x1e}, {0x20, 0x25}, {0x28, 0x2b},
                           {0x30, 0x35}, {0x37, 0x41}, {0xc8, 0xcd}, {0xcf, 0xcf}, {0xdb, 0xdf}, {0xf0, 0xf1}, {0xf6, 0xf6}, {0xf9, 0xf9}};
constexpr Range k0F3A[] = {{0x08, 0x0f}, {0x14, 0x17}, {0x20, 0x22}, {0x40, 0x42}, {0x44, 0x44}, {0x60, 0x63}, {0xcc, 0xcc}, {0xce, 0xcf},
                           {0xdf, 0xdf}};

template <size_t N>
bool in(const Range (&ranges)[N], uint8_t opcode) {
  for (const Range& r : ranges)
    if (opcode >= r.first && opcode <= r.last) return true;
  return false;
}

bool one_byte(const Insn& insn, unsigned reg, bool memory) {
  switch (insn.opcode) {
    case 0x90: return !insn.rep;                                 // PAUSE
    case 0xc6:
    case 0xc7: return reg == 0;                                  // XABORT, XBEGIN
    case 0xd9:
    case 0xdd: return !(memory && (reg == 4 || reg == 6));       // FLDENV, FNSTENV, FRSTOR, FNSAVE
    case 0xfe: return reg <= 1;
    case 0xff: return reg <= 1 || (memory && (reg == 2 || reg == 4));  // CALL, JMP: of a stub
    default: return in(kOneByte, insn.opcode);
  }
}

bool two_byte(const Insn& insn, unsigned reg, bool memory) {
  const bool bare = !insn.rep && !insn.repne && !insn.opsize;
  if ((insn.opcode & 0xf0) == 0x80) return true;                 // Jcc rel32
  switch (insn.opcode) {
    case 0x1f: return insn.length == 3 && insn.modrm == 0;       // the emitter's padding
    case 0x77: return bare;                                      // EMMS
    case 0x78:
    case 0x79: return !memory && (insn.opsize || insn.repne);    // EXTRQ, INSERTQ; bare they are VMREAD and VMWRITE
    case 0xa3:
    case 0xab:
    case 0xb3:
    case 0xbb: return true;                                      // on memory with a bit offset inside the operand alone: verifier_state.cpp
    case 0xae:
      if (!memory) return bare && reg >= 5;                      // fences; else INCSSP, UMONITOR, TPAUSE, FS and GS base
      if (reg == 2 || reg == 3) return bare;                     // LDMXCSR, STMXCSR
      if (reg == 6) return insn.opsize;                          // CLWB; bare it is XSAVEOPT, F3 CLRSSBSY
      return reg == 7 && !insn.rep && !insn.repne;               // CLFLUSH, CLFLUSHOPT
    case 0xb8: return insn.rep;                                  // POPCNT; bare JMPE
    case 0xb9: return false;                                     // UD1
    case 0xba: return reg >= 4;
    case 0xc7: return memory && reg == 1 && !insn.rep && !insn.repne;  // CMPXCHG8B and 16B
    default: return in(k0F, insn.opcode);
  }
}

bool legacy(const Insn& insn) {
  const bool memory = insn.has_modrm && insn.modrm >> 6 != 3;
  const unsigned reg = insn.modrm >> 3 & 7;
  switch (insn.map) {
    case OpcodeMap::kOneByte: return one_byte(insn, reg, memory);
    case OpcodeMap::k0F: return two_byte(insn, reg, memory);
    case OpcodeMap::k0F38:
      if (insn.opcode >= 0xd8 && insn.opcode <= 0xdf && insn.rep) return false;  // key locker
      if (insn.opcode == 0xf6) return insn.opsize || insn.rep;                   // ADCX, ADOX; bare it is WRSS
      return in(k0F38, insn.opcode);
    case OpcodeMap::k0F3A: return in(k0F3A, insn.opcode);
    default: return false;
  }
}

// The VEX and EVEX maps hold SIMD, masks and BMI; what else has come into them is left out.
bool vector(const Insn& insn) {
  if (insn.map == OpcodeMap::kOneByte) return false;
  if (insn.map != OpcodeMap::k0F38) return true;
  const uint8_t op = insn.opcode;
  if (op >= 0x90 && op <= 0x93) return false;                     // gathers
  if (insn.encoding == Encoding::kEvex)
    return !(op >= 0xa0 && op <= 0xa3) && op != 0xc6 && op != 0xc7;  // scatters, their prefetches
  return op != 0x49 && op != 0x4b && op != 0x5c && op != 0x5e && op != 0x6c;  // AMX
}

}  // namespace

bool allowed_on_host(const Insn& insn) { return insn.encoding == Encoding::kLegacy ? legacy(insn) : vector(insn); }

}  // namespace vireo::softkvm
