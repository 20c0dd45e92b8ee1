// SPDX-License-Identifier: Apache-2.0
// Fast system calls. Spec: Intel SDM vol 2, SYSCALL, SYSRET, SYSENTER, SYSEXIT; AMD APM vol 3, the same (compatibility and legacy mode).
#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

namespace {

Segment flat_segment(uint16_t selector, unsigned dpl, unsigned type, bool l, bool db) {
  Segment s;
  s.limit = 0xffffffff;
  s.selector = selector;
  s.access = static_cast<uint16_t>(0x8090 | type | dpl << 5 | (l ? 0x2000 : 0) | (db ? 0x4000 : 0));
  return s;
}

void set_flat(VcpuState& vcpu, uint16_t cs, uint16_t ss, unsigned cpl, bool l) {
  vcpu.segment[kCS] = flat_segment(cs, cpl, 11, l, !l);
  vcpu.segment[kSS] = flat_segment(ss, cpl, 3, false, true);
  vcpu.cpl = static_cast<uint8_t>(cpl);
}

}  // namespace

Outcome syscall(VcpuState& vcpu, const Insn& insn) {
  bool long_mode = vcpu.long_mode_active();
  if (!(vcpu.efer & kEferSce) || !vcpu.protected_mode() || vcpu.vm86()) return vcpu.raise(kUD);
  if (!vcpu.in_64bit() && !vcpu.vendor_is_amd) return vcpu.raise(kUD);
  uint64_t next = next_rip(vcpu, insn.length);
  uint16_t cs = static_cast<uint16_t>(vcpu.msr.star >> 32 & 0xfffc);
  if (long_mode) {
    uint64_t flags = vcpu.rflags() & ~static_cast<uint64_t>(kRF);
    vcpu.gpr[kRcx] = next;
    vcpu.gpr[11] = flags;
    vcpu.rip = vcpu.in_64bit() ? vcpu.msr.lstar : vcpu.msr.cstar;
    vcpu.set_rflags(flags & ~vcpu.msr.sfmask & ~static_cast<uint64_t>(kVM));
  } else {
    vcpu.gpr[kRcx] = next;
    vcpu.rip = static_cast<uint32_t>(vcpu.msr.star);
    vcpu.system_flags &= ~(kIF | kRF | kVM);
  }
  set_flat(vcpu, cs, static_cast<uint16_t>(cs + 8), 0, long_mode);
  update_mode(vcpu);
  // Of SYSCALL and SYSRET it is the new TF that traps (SDM vol 3, 17.3.1.4).
  vcpu.single_step_pending = vcpu.system_flags & kTF;
  return Outcome::kJump;
}

Outcome sysret(VcpuState& vcpu, const Insn& insn) {
  if (!(vcpu.efer & kEferSce) || !vcpu.protected_mode() || vcpu.vm86()) return vcpu.raise(kUD);
  if (!vcpu.in_64bit() && !vcpu.vendor_is_amd) return vcpu.raise(kUD);
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  bool wide = vcpu.in_64bit() && insn.operand_size == 8;
  uint64_t rip = wide ? vcpu.gpr[kRcx] : static_cast<uint32_t>(vcpu.gpr[kRcx]);
  // Intel faults here, still at CPL 0; AMD at the target's fetch, at CPL 3.
  if (wide && !vcpu.vendor_is_amd && !canonical(rip, vcpu.linear_bits)) return vcpu.raise(kGP, 0);
  uint16_t base = static_cast<uint16_t>(vcpu.msr.star >> 48);
  uint16_t cs = static_cast<uint16_t>((wide ? base + 16 : base) | 3);
  if (vcpu.long_mode_active())
    vcpu.set_rflags((vcpu.gpr[11] & 0x3c7fd7) | 2);
  else
    vcpu.system_flags |= kIF;
  set_flat(vcpu, cs, static_cast<uint16_t>((base + 8) | 3), 3, wide);
  vcpu.rip = rip;
  update_mode(vcpu);
  vcpu.single_step_pending = vcpu.system_flags & kTF;
  return Outcome::kJump;
}

Outcome sysenter(VcpuState& vcpu, const Insn&) {
  bool long_mode = vcpu.long_mode_active();
  if (long_mode && vcpu.vendor_is_amd) return vcpu.raise(kUD);
  if (!vcpu.protected_mode() || null_selector(static_cast<uint16_t>(vcpu.msr.sysenter_cs))) return vcpu.raise(kGP, 0);
  vcpu.system_flags &= ~(kVM | kIF | kRF);
  uint16_t cs = static_cast<uint16_t>(vcpu.msr.sysenter_cs & 0xfffc);
  set_flat(vcpu, cs, static_cast<uint16_t>(cs + 8), 0, long_mode);
  vcpu.gpr[kRsp] = long_mode ? vcpu.msr.sysenter_esp : static_cast<uint32_t>(vcpu.msr.sysenter_esp);
  vcpu.rip = long_mode ? vcpu.msr.sysenter_eip : static_cast<uint32_t>(vcpu.msr.sysenter_eip);
  update_mode(vcpu);
  return Outcome::kJump;
}

Outcome sysexit(VcpuState& vcpu, const Insn& insn) {
  bool long_mode = vcpu.long_mode_active();
  if (long_mode && vcpu.vendor_is_amd) return vcpu.raise(kUD);
  if (!vcpu.protected_mode() || vcpu.vm86() || vcpu.cpl != 0 || null_selector(static_cast<uint16_t>(vcpu.msr.sysenter_cs)))
    return vcpu.raise(kGP, 0);
  bool wide = vcpu.in_64bit() && insn.operand_size == 8;
  uint64_t rsp = vcpu.gpr[kRcx], rip = vcpu.gpr[kRdx];
  if (wide) {
    if (!canonical(rsp, vcpu.linear_bits) || !canonical(rip, vcpu.linear_bits)) return vcpu.raise(kGP, 0);
  } else {
    rsp = static_cast<uint32_t>(rsp);
    rip = static_cast<uint32_t>(rip);
  }
  uint16_t base = static_cast<uint16_t>(vcpu.msr.sysenter_cs & 0xfffc);
  uint16_t cs = static_cast<uint16_t>((base + (wide ? 32 : 16)) | 3);
  set_flat(vcpu, cs, static_cast<uint16_t>(cs + 8), 3, wide);
  vcpu.gpr[kRsp] = rsp;
  vcpu.rip = rip;
  update_mode(vcpu);
  return Outcome::kJump;
}

}  // namespace vireo::softkvm
