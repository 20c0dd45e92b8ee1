// SPDX-License-Identifier: Apache-2.0
// Where softkvm may differ from the bare CPU, by instruction and by the CPU's vendor: nothing that a guest may rely on.
#pragma once

#include "softkvm/cpu/insn.h"

namespace vireo::softkvm {

struct PermittedDifference {
  Mnemonic mnemonic;
  bool amd, narrow, w;          // on AMD's CPUs; outside of 64-bit mode; with VEX.W
  enum class What { kUpperHalf } what;  // bits 63 to 32 of the general register it writes
  const char* reason;
};

constexpr PermittedDifference kPermittedDifferences[] = {
    {Mnemonic::kKmovd, true, true, true, PermittedDifference::What::kUpperHalf,
     "KMOVQ r64, k outside of 64-bit mode: APM vol 1, 3.1.2, the high 32 bits of GPRs are undefined in compatibility mode"},
};

// Left out on AMD's CPUs: EVEX.X, which extends no general register (SDM vol 2, 2.7, EVEX register encoding), beside rSP as the register of modrm.rm.
// Family 26 then reads rSP without what PUSH and POP have just added (VCVTSI2SD behind PUSH, POP: 8 too low, every time); softkvm reads rSP.
inline bool reads_stale_stack_pointer(const Insn& insn, bool amd) {
  if (!amd || insn.encoding != Encoding::kEvex || insn.modrm < 0xc0) return false;
  for (unsigned i = 0; i < insn.operand_count; i++) {
    const Operand& o = insn.operands[i];
    if (o.kind == OperandKind::kGpr && o.field == OperandField::kModrmRm && o.reg == 4) return insn.rm >= 16;
  }
  return false;
}

inline bool permitted(PermittedDifference::What what, const Insn& insn, bool amd) {
  for (const PermittedDifference& p : kPermittedDifferences)
    if (p.what == what && p.mnemonic == insn.mnemonic && p.amd == amd && p.narrow == (insn.mode != CodeMode::k64) && p.w == insn.w) return true;
  return false;
}

}  // namespace vireo::softkvm
