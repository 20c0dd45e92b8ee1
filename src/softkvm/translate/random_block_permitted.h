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

inline bool permitted(PermittedDifference::What what, const Insn& insn, bool amd) {
  for (const PermittedDifference& p : kPermittedDifferences)
    if (p.what == what && p.mnemonic == insn.mnemonic && p.amd == amd && p.narrow == (insn.mode != CodeMode::k64) && p.w == insn.w) return true;
  return false;
}

}  // namespace vireo::softkvm
