// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/host_gs_base.h"

#include <asm/prctl.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "softkvm/translate/engine.h"

extern "C" const void* softkvm_stub_gs_owner();

namespace vireo::softkvm {
namespace {

// Spec: Linux, Documentation/arch/x86/x86_64/fsgs.rst.
bool has_instructions() {
  static const bool has = getauxval(AT_HWCAP2) & 2;
  return has;
}

thread_local const Vcpu* t_left;  // whose address the last KVM_RUN left in this thread's GS base

}  // namespace

HostGsBase::HostGsBase(const Vcpu& vcpu) {
  const auto base = reinterpret_cast<uint64_t>(&vcpu);
  if (has_instructions()) {
    asm volatile("rdgsbase %0" : "=r"(old_));
    asm volatile("wrgsbase %0" : : "r"(base));
    return;
  }
  restore_ = false;
  if (t_left == &vcpu && softkvm_stub_gs_owner() == &vcpu) return;
  syscall(SYS_arch_prctl, ARCH_GET_GS, &old_);
  restore_ = old_ && old_ != reinterpret_cast<uint64_t>(t_left);
  t_left = restore_ ? nullptr : &vcpu;
  syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

HostGsBase::~HostGsBase() {
  if (!restore_) return;
  if (has_instructions()) asm volatile("wrgsbase %0" : : "r"(old_));
  else syscall(SYS_arch_prctl, ARCH_SET_GS, old_);
}

}  // namespace vireo::softkvm
