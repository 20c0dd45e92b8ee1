// SPDX-License-Identifier: Apache-2.0
// RDMSR and WRMSR: privilege, the MSR filter, and the exits to user space for what is unknown, refused or filtered.
// Spec: Intel SDM vol 2, the same; Documentation/virt/kvm/api.rst, 7.21 (KVM_CAP_X86_USER_SPACE_MSR), 4.97 (KVM_X86_SET_MSR_FILTER).
#include <linux/kvm.h>

#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

namespace {

using OpenExit = VcpuState::OpenExit;

// An access that failed: the exit user space asked for, or #GP.
Outcome refuse(VcpuState& vcpu, uint32_t index, uint64_t value, bool write, uint32_t reason) {
  if (!(vcpu.msr_exit_reasons & reason) || !vcpu.run) return vcpu.raise(kGP, 0);
  kvm_run& run = *vcpu.run;
  run.exit_reason = write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
  run.msr.error = 0;
  for (uint8_t& b : run.msr.pad) b = 0;
  run.msr.reason = reason;
  run.msr.index = index;
  run.msr.data = value;
  vcpu.open_exit = write ? OpenExit::kWrmsr : OpenExit::kRdmsr;
  return Outcome::kExit;
}

// Is there such an MSR at all? Then the access was refused for its value or for what CPUID lacks.
uint32_t refusal(VcpuState& vcpu, uint32_t index) {
  uint64_t value;
  return read_msr(vcpu, index, value, true) ? KVM_MSR_EXIT_REASON_INVAL : KVM_MSR_EXIT_REASON_UNKNOWN;
}

void store(VcpuState& vcpu, uint64_t value) {
  vcpu.gpr[kRax] = static_cast<uint32_t>(value);
  vcpu.gpr[kRdx] = value >> 32;
}

}  // namespace

Outcome rdmsr(VcpuState& vcpu, const Insn&) {
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  uint32_t index = static_cast<uint32_t>(vcpu.gpr[kRcx]);
  if (vcpu.open_exit == OpenExit::kRdmsr) {
    vcpu.open_exit = OpenExit::kNone;
    if (vcpu.run->msr.error) return vcpu.raise(kGP, 0);
    store(vcpu, vcpu.run->msr.data);
    return Outcome::kNext;
  }
  uint64_t value = 0;
  if (!msr_filter_allows(vcpu, index, false)) return refuse(vcpu, index, 0, false, KVM_MSR_EXIT_REASON_FILTER);
  if (!read_msr(vcpu, index, value, false)) return refuse(vcpu, index, 0, false, refusal(vcpu, index));
  store(vcpu, value);
  return Outcome::kNext;
}

Outcome wrmsr(VcpuState& vcpu, const Insn& insn) {
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  uint32_t index = static_cast<uint32_t>(vcpu.gpr[kRcx]);
  uint64_t value = static_cast<uint32_t>(vcpu.gpr[kRax]) | vcpu.gpr[kRdx] << 32;
  if (vcpu.open_exit == OpenExit::kWrmsr) {
    vcpu.open_exit = OpenExit::kNone;
    return vcpu.run->msr.error ? vcpu.raise(kGP, 0) : Outcome::kNext;
  }
  uint32_t mode = vcpu.mode;
  if (!msr_filter_allows(vcpu, index, true)) return refuse(vcpu, index, value, true, KVM_MSR_EXIT_REASON_FILTER);
  if (!write_msr(vcpu, index, value, false)) return refuse(vcpu, index, value, true, refusal(vcpu, index));
  return finish(vcpu, insn, mode);
}

}  // namespace vireo::softkvm
