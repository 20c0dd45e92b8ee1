// SPDX-License-Identifier: Apache-2.0
// MOV to and from the debug registers. Spec: Intel SDM vol 2, MOV DR; vol 3, 17.2.
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

namespace {

constexpr uint64_t kDr6Fixed1 = 0xffff0ff0, kDr6Volatile = 0xe00f;
constexpr uint64_t kDr7Fixed1 = 0x400, kDr7Volatile = 0xffff23ff;
constexpr uint64_t kDr7Gd = 1 << 13, kDr6Bd = 1 << 13;

// DR4 and DR5 are DR6 and DR7 unless CR4.DE. False: #UD, or the #GP or #DB that the access raises (`outcome`).
bool reachable(VcpuState& vcpu, unsigned& dr, Outcome& outcome) {
  if (dr > 7 || ((dr == 4 || dr == 5) && (vcpu.cr4 & kCr4De))) {
    outcome = vcpu.raise(kUD);
    return false;
  }
  if (vcpu.cpl != 0) {
    outcome = vcpu.raise(kGP, 0);
    return false;
  }
  if ((vcpu.debugger_dr7 ? vcpu.debugger_dr7 : vcpu.dr7) & kDr7Gd) {
    outcome = vcpu.raise(kDB);
    vcpu.fault.payload = kDr6Bd;
    return false;
  }
  if (dr == 4 || dr == 5) dr += 2;
  return true;
}

}  // namespace

Outcome move_from_debug(VcpuState& vcpu, const Insn& insn) {
  unsigned dr = insn.reg & 15;
  Outcome outcome;
  if (!reachable(vcpu, dr, outcome)) return outcome;
  uint64_t value = dr < 4 ? vcpu.dr[dr] : dr == 6 ? vcpu.dr6 : vcpu.dr7;
  write_gpr(vcpu, insn.rm & 15, vcpu.in_64bit() ? 8 : 4, value);
  return Outcome::kNext;
}

Outcome move_to_debug(VcpuState& vcpu, const Insn& insn) {
  unsigned dr = insn.reg & 15;
  Outcome outcome;
  if (!reachable(vcpu, dr, outcome)) return outcome;
  uint64_t value = read_gpr(vcpu, insn.rm & 15, vcpu.in_64bit() ? 8 : 4);
  uint32_t mode = vcpu.mode;
  if (dr < 4) {
    vcpu.dr[dr] = value;
  } else {
    if (value >> 32) return vcpu.raise(kGP, 0);
    if (dr == 6)
      vcpu.dr6 = (value & kDr6Volatile) | kDr6Fixed1;
    else
      vcpu.dr7 = (value & kDr7Volatile) | kDr7Fixed1;
  }
  update_mode(vcpu);
  // A breakpoint may be armed on the very next instruction.
  return dr == 6 ? finish(vcpu, insn, mode) : jump_behind(vcpu, insn);
}

}  // namespace vireo::softkvm
