// SPDX-License-Identifier: Apache-2.0
// KVM_GET_REGS, KVM_SET_REGS.
#include <cerrno>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_ioctls.h"

namespace vireo::softkvm::abi {

const Capability kRegsCapabilities[] = {
    {KVM_CAP_SYNC_REGS, KVM_SYNC_X86_VALID_FIELDS},
};
CAPABILITIES(regs_capabilities, kRegsCapabilities)

void save_regs(const Vcpu& vcpu, kvm_regs& regs) {
  const uint64_t* g = vcpu.gpr;
  regs.rax = g[kRax], regs.rbx = g[kRbx], regs.rcx = g[kRcx], regs.rdx = g[kRdx];
  regs.rsi = g[kRsi], regs.rdi = g[kRdi], regs.rsp = g[kRsp], regs.rbp = g[kRbp];
  regs.r8 = g[8], regs.r9 = g[9], regs.r10 = g[10], regs.r11 = g[11];
  regs.r12 = g[12], regs.r13 = g[13], regs.r14 = g[14], regs.r15 = g[15];
  regs.rip = vcpu.rip;
  regs.rflags = vcpu.rflags();
}

void load_regs(Vcpu& vcpu, const kvm_regs& regs) {
  uint64_t* g = vcpu.gpr;
  g[kRax] = regs.rax, g[kRbx] = regs.rbx, g[kRcx] = regs.rcx, g[kRdx] = regs.rdx;
  g[kRsi] = regs.rsi, g[kRdi] = regs.rdi, g[kRsp] = regs.rsp, g[kRbp] = regs.rbp;
  g[8] = regs.r8, g[9] = regs.r9, g[10] = regs.r10, g[11] = regs.r11;
  g[12] = regs.r12, g[13] = regs.r13, g[14] = regs.r14, g[15] = regs.r15;
  vcpu.rip = regs.rip;
  vcpu.set_rflags(regs.rflags);
  settle_cpl(vcpu);
  // The kernel's way: new registers drop an exception that has not been delivered yet.
  if (vcpu.injected_is_pending) vcpu.injected.pending = vcpu.injected_is_pending = false;
  vcpu.state_changed();
}

int get_regs(VcpuFile& file, uintptr_t argument) {
  kvm_regs regs{};
  save_regs(*file.vcpu, regs);
  return copy_out(argument, regs) ? 0 : -EFAULT;
}

int set_regs(VcpuFile& file, uintptr_t argument) {
  kvm_regs regs;
  if (!copy_in(regs, argument)) return -EFAULT;
  load_regs(*file.vcpu, regs);
  return 0;
}

}  // namespace vireo::softkvm::abi
