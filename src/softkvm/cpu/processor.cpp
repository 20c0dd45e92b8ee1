// SPDX-License-Identifier: Apache-2.0
// Identification, time, random numbers, waiting, and calls to the hypervisor.
// Spec: Intel SDM vol 2, CPUID, RDTSC, RDTSCP, RDPID, RDRAND, RDSEED, HLT, MONITOR, MWAIT, BOUND, VMCALL; AMD APM vol 3, RDPRU, VMMCALL;
// Documentation/virt/kvm/x86/hypercalls.rst.
#include <linux/kvm.h>
#include <linux/kvm_para.h>

#include <cerrno>

#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

namespace {

// Quirks of KVM_CAP_DISABLE_QUIRKS2.
constexpr uint64_t kMiscEnableMwait = 1 << 18;
constexpr uint32_t kQuirkMiscEnableNoMwait = 1 << 4;
constexpr uint32_t kQuirkFixHypercall = 1 << 5, kQuirkMwaitNeverUd = 1 << 6;

bool tsc_forbidden(const VcpuState& vcpu) { return (vcpu.cr4 & kCr4Tsd) && vcpu.cpl > 0; }

void store_pair(VcpuState& vcpu, uint64_t value) {
  vcpu.gpr[kRax] = static_cast<uint32_t>(value);
  vcpu.gpr[kRdx] = value >> 32;
}

}  // namespace

Outcome cpuid_instruction(VcpuState& vcpu) {
  if ((vcpu.msr.misc_features & 1) && vcpu.cpl > 0) return vcpu.raise(kGP, 0);
  CpuidEntry e = cpuid(vcpu, static_cast<uint32_t>(vcpu.gpr[kRax]), static_cast<uint32_t>(vcpu.gpr[kRcx]));
  vcpu.gpr[kRax] = e.eax;
  vcpu.gpr[kRbx] = e.ebx;
  vcpu.gpr[kRcx] = e.ecx;
  vcpu.gpr[kRdx] = e.edx;
  return Outcome::kNext;
}

Outcome rdtsc(VcpuState& vcpu) {
  if (tsc_forbidden(vcpu)) return vcpu.raise(kGP, 0);
  store_pair(vcpu, guest_tsc(vcpu));
  return Outcome::kNext;
}

Outcome rdtscp(VcpuState& vcpu) {
  if (!has(vcpu, kCpuidRdtscp)) return vcpu.raise(kUD);
  STEP(rdtsc(vcpu));
  vcpu.gpr[kRcx] = static_cast<uint32_t>(vcpu.msr.tsc_aux);
  return Outcome::kNext;
}

Outcome rdpid(VcpuState& vcpu, const Insn& insn) {
  if (!has(vcpu, kCpuidRdpid)) return vcpu.raise(kUD);
  write_gpr(vcpu, insn.rm & 15, vcpu.in_64bit() ? 8 : 4, static_cast<uint32_t>(vcpu.msr.tsc_aux));
  return Outcome::kNext;
}

// The counters read here, MPERF and APERF, both run at the TSC's rate; any other index reads as zero.
Outcome rdpru(VcpuState& vcpu) {
  if (!has(vcpu, kCpuidRdpru)) return vcpu.raise(kUD);
  if (tsc_forbidden(vcpu)) return vcpu.raise(kUD);
  uint32_t index = static_cast<uint32_t>(vcpu.gpr[kRcx]);
  store_pair(vcpu, index <= 1 ? guest_tsc(vcpu) : 0);
  return Outcome::kNext;
}

Outcome random_number(VcpuState& vcpu, const Insn& insn, bool seed) {
  if (!has(vcpu, seed ? kCpuidRdseed : kCpuidRdrand)) return vcpu.raise(kUD);
  uint64_t value;
  bool ok;
  if (seed)
    asm volatile("rdseed %0" : "=r"(value), "=@ccc"(ok));
  else
    asm volatile("rdrand %0" : "=r"(value), "=@ccc"(ok));
  write_gpr(vcpu, insn.rm & 15, insn.operand_size, ok ? value : 0);
  vcpu.set_status_flags(ok ? kCF : 0);
  return Outcome::kNext;
}

Outcome hlt(VcpuState& vcpu, const Insn& insn) {
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  vcpu.rip = next_rip(vcpu, insn.length);
  vcpu.halted = true;
  return Outcome::kHalt;
}

// There is no address monitor: MONITOR arms nothing, and MWAIT may end at once, as it may on any CPU.
Outcome monitor_mwait(VcpuState& vcpu, bool mwait, unsigned feature) {
  // With KVM's quirk MISC_ENABLE_NO_MWAIT disabled, CPUID follows IA32_MISC_ENABLE.
  const bool follows = feature == kCpuidMonitor && (vcpu.disabled_quirks & kQuirkMiscEnableNoMwait);
  const bool there = follows ? (vcpu.msr.misc_enable & kMiscEnableMwait) != 0 : has(vcpu, feature);
  if (!there && (feature != kCpuidMonitor || (vcpu.disabled_quirks & kQuirkMwaitNeverUd))) return vcpu.raise(kUD);
  if (vcpu.cpl != 0) return vcpu.raise(kUD);
  uint32_t extensions = static_cast<uint32_t>(vcpu.gpr[kRcx]);
  // MWAIT ECX bit 0: break on masked interrupts. MWAITX bit 1: with a timer.
  uint32_t allowed = !mwait ? 0u : feature == kCpuidMonitor ? 1u : 3u;
  if (extensions & ~allowed) return vcpu.raise(kGP, 0);
  return Outcome::kNext;
}

Outcome vmcall(VcpuState& vcpu, bool amd) {
  if (amd != vcpu.vendor_is_amd && (vcpu.disabled_quirks & kQuirkFixHypercall)) return vcpu.raise(kUD);
  // The quirk: the other vendor's instruction is replaced by the right one, and works at once. Where the guest may not write its code, it stays.
  if (amd != vcpu.vendor_is_amd && vcpu.open_exit == VcpuState::OpenExit::kNone) {
    const uint8_t right[3] = {0x0f, 0x01, static_cast<uint8_t>(vcpu.vendor_is_amd ? 0xd9 : 0xc1)};
    uint64_t at = vcpu.in_64bit() ? vcpu.rip : (vcpu.segment[kCS].base + vcpu.rip) & 0xffffffff;
    Outcome written = write_linear(vcpu, at, right, sizeof right);
    if (written == Outcome::kExit) return written;
    vcpu.fault.pending = false;
  }
  uint64_t mask = vcpu.in_64bit() ? ~0ull : 0xffffffff;
  if (vcpu.open_exit == VcpuState::OpenExit::kHypercall) {
    vcpu.open_exit = VcpuState::OpenExit::kNone;
    vcpu.gpr[kRax] = vcpu.run->hypercall.ret & mask;
    return Outcome::kNext;
  }
  uint64_t result = static_cast<uint64_t>(-KVM_EPERM);
  if (vcpu.cpl == 0) {
    uint64_t arguments[4] = {vcpu.gpr[kRbx] & mask, vcpu.gpr[kRcx] & mask, vcpu.gpr[kRdx] & mask, vcpu.gpr[kRsi] & mask};
    STEP(hypercall(vcpu, vcpu.gpr[kRax] & mask, arguments, result));
  }
  vcpu.gpr[kRax] = result & mask;
  return Outcome::kNext;
}

Outcome bound(VcpuState& vcpu, const Insn& insn) {
  if (register_form(insn)) return vcpu.raise(kUD);
  unsigned size = insn.operand_size;
  auto extend = [size](uint64_t v) -> int64_t {
    return size == 2 ? static_cast<int16_t>(v) : static_cast<int32_t>(v);
  };
  const int64_t index = extend(vcpu.gpr[insn.reg & 7]);
  // Where the lower bound decides, Intel's CPUs do not look at the upper one, AMD's do.
  bool outside = false;
  for (unsigned i = 0; i < 2; i++) {
    uint64_t offset = effective_offset(vcpu, insn) + i * size, linear, bound = 0;
    if (insn.address_size == 2) offset &= 0xffff;
    STEP(linear_address(vcpu, static_cast<SegmentRegister>(insn.segment), offset, size, AccessType::kRead, linear));
    STEP(read_linear(vcpu, linear, &bound, size, false, insn.segment == kSS));
    outside |= i ? index > extend(bound) : index < extend(bound);
    if (outside && (i || !vcpu.vendor_is_amd)) return vcpu.raise(kBR);
  }
  return Outcome::kNext;
}

}  // namespace vireo::softkvm
