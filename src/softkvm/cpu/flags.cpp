// SPDX-License-Identifier: Apache-2.0
// The system flags: PUSHF and POPF by privilege, CLI, STI, CLAC, STAC, with virtual interrupts (VME, PVI).
// Spec: Intel SDM vol 2, POPF (table 4-16), PUSHF, CLI (table 3-7), STI (table 4-20); vol 3, 20.3.3, 20.4.
#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/stack.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

Outcome popf(VcpuState& vcpu, uint64_t value, unsigned size) {
  uint32_t writable = kTF | kDF | kNT;
  if (size > 2) writable |= kAC | kID;
  uint32_t cleared = kRF;
  uint32_t set = 0;
  if (vcpu.vm86()) {
    if (iopl(vcpu) == 3) {
      writable |= kIF;
    } else {
      if (!(vcpu.cr4 & kCr4Vme) || size != 2) return vcpu.raise(kGP, 0);
      if ((value & kTF) || ((value & kIF) && (vcpu.system_flags & kVIP))) return vcpu.raise(kGP, 0);
      cleared |= kVIF;
      set = value & kIF ? kVIF : 0;
    }
  } else {
    if (vcpu.cpl == 0) writable |= kIOPL;
    if (!vcpu.protected_mode() || vcpu.cpl <= iopl(vcpu)) writable |= kIF;
  }
  uint32_t before = vcpu.system_flags;
  vcpu.set_status_flags(value);
  uint32_t after = (((before & ~writable) | (static_cast<uint32_t>(value) & writable)) & ~cleared) | set;
  if (after != before) {
    vcpu.system_flags = after;
    update_mode(vcpu);
  }
  return Outcome::kNext;
}

Outcome pushf_image(VcpuState& vcpu, unsigned size, uint64_t& value) {
  uint64_t flags = vcpu.rflags() & ~static_cast<uint64_t>(kRF | kVM);
  if (vcpu.vm86() && iopl(vcpu) < 3) {
    if (!(vcpu.cr4 & kCr4Vme) || size != 2) return vcpu.raise(kGP, 0);
    flags |= kIOPL;
    flags = flags & kVIF ? flags | kIF : flags & ~static_cast<uint64_t>(kIF);
  }
  value = flags & size_mask(size);
  return Outcome::kNext;
}

Outcome pushf_instruction(VcpuState& vcpu, const Insn& insn) {
  unsigned size = vcpu.in_64bit() ? (insn.opsize ? 2 : 8) : insn.operand_size;
  uint64_t value;
  STEP(pushf_image(vcpu, size, value));
  Stack stack(vcpu);
  STEP(stack.push(value, size));
  stack.commit();
  return Outcome::kNext;
}

Outcome popf_instruction(VcpuState& vcpu, const Insn& insn) {
  unsigned size = vcpu.in_64bit() ? (insn.opsize ? 2 : 8) : insn.operand_size;
  uint64_t value;
  Stack stack(vcpu);
  STEP(stack.pop(value, size));
  uint32_t mode = vcpu.mode;
  STEP(popf(vcpu, value, size));
  stack.commit();
  return finish(vcpu, insn, mode);
}

namespace {

enum class InterruptFlag : uint8_t { kReal, kVirtual, kFault };

// Which flag CLI and STI mean: IF, VIF, or none.
InterruptFlag interrupt_flag(const VcpuState& vcpu) {
  if (!vcpu.protected_mode() || vcpu.cpl <= iopl(vcpu)) return InterruptFlag::kReal;  // VM86 has CPL 3
  if (vcpu.vm86()) return vcpu.cr4 & kCr4Vme ? InterruptFlag::kVirtual : InterruptFlag::kFault;
  return vcpu.cpl == 3 && (vcpu.cr4 & kCr4Pvi) ? InterruptFlag::kVirtual : InterruptFlag::kFault;
}

}  // namespace

Outcome cli(VcpuState& vcpu, const Insn& insn) {
  switch (interrupt_flag(vcpu)) {
    case InterruptFlag::kReal: vcpu.system_flags &= ~kIF; break;
    case InterruptFlag::kVirtual: vcpu.system_flags &= ~kVIF; break;
    case InterruptFlag::kFault: return vcpu.raise(kGP, 0);
  }
  return Outcome::kNext;
}

Outcome sti(VcpuState& vcpu, const Insn& insn) {
  switch (interrupt_flag(vcpu)) {
    case InterruptFlag::kReal:
      if (!(vcpu.system_flags & kIF)) vcpu.interrupt_shadow_sti = true;
      vcpu.system_flags |= kIF;
      break;
    case InterruptFlag::kVirtual:
      if (vcpu.system_flags & kVIP) return vcpu.raise(kGP, 0);
      vcpu.system_flags |= kVIF;
      break;
    case InterruptFlag::kFault: return vcpu.raise(kGP, 0);
  }
  return Outcome::kNext;
}

Outcome stac_clac(VcpuState& vcpu, const Insn& insn, bool set) {
  if (!has(vcpu, kCpuidSmap) || vcpu.cpl != 0) return vcpu.raise(kUD);
  uint32_t mode = vcpu.mode;
  vcpu.system_flags = set ? vcpu.system_flags | kAC : vcpu.system_flags & ~kAC;
  update_mode(vcpu);
  return finish(vcpu, insn, mode);
}

}  // namespace vireo::softkvm
