// SPDX-License-Identifier: Apache-2.0
// Which function is which ioctl of a vCPU.
#include "softkvm/abi/vcpu_ioctls.h"

#include <cerrno>

#include "softkvm/abi/user_memory.h"

namespace vireo::softkvm::abi {
namespace {

// KVM_ENABLE_CAP on a vCPU. The others that a vCPU can switch on are Hyper-V's.
int enable_cap(VcpuFile& file, uintptr_t argument) {
  kvm_enable_cap cap;
  if (!copy_in(cap, argument)) return -EFAULT;
  if (cap.flags != 0 || cap.cap != KVM_CAP_ENFORCE_PV_FEATURE_CPUID) return -EINVAL;
  file.vcpu->paravirtual_enforced = cap.args[0] != 0;
  return 0;
}

}  // namespace

int vcpu_ioctl(VcpuFile& file, unsigned long request, uintptr_t argument) {
  if (_IOC_TYPE(request) != KVMIO) return -EINVAL;
  std::lock_guard lock(file.mutex);
  if (request != KVM_RUN) file.vcpu->user_acted = true;
  switch (request) {
    case KVM_RUN: return run(file, argument);
    case KVM_GET_REGS: return get_regs(file, argument);
    case KVM_SET_REGS: return set_regs(file, argument);
    case KVM_GET_SREGS: return get_sregs(file, argument);
    case KVM_SET_SREGS: return set_sregs(file, argument);
    case KVM_GET_SREGS2: return get_sregs2(file, argument);
    case KVM_SET_SREGS2: return set_sregs2(file, argument);
    case KVM_GET_FPU: return get_fpu(file, argument);
    case KVM_SET_FPU: return set_fpu(file, argument);
    case KVM_GET_XSAVE:
    case KVM_GET_XSAVE2: return get_xsave(file, argument);
    case KVM_SET_XSAVE: return set_xsave(file, argument);
    case KVM_GET_XCRS: return get_xcrs(file, argument);
    case KVM_SET_XCRS: return set_xcrs(file, argument);
    case KVM_GET_MSRS: return get_msrs(file, argument);
    case KVM_SET_MSRS: return set_msrs(file, argument);
    case KVM_SET_CPUID: return set_cpuid(file, argument);
    case KVM_SET_CPUID2: return set_cpuid2(file, argument);
    case KVM_GET_CPUID2: return get_cpuid2(file, argument);
    case KVM_GET_VCPU_EVENTS: return get_events(file, argument);
    case KVM_SET_VCPU_EVENTS: return set_events(file, argument);
    case KVM_GET_MP_STATE: return get_mp_state(file, argument);
    case KVM_SET_MP_STATE: return set_mp_state(file, argument);
    case KVM_INTERRUPT: return interrupt(file, argument);
    case KVM_NMI: return nmi(file);
    case KVM_SMI: return smi(file);
    case KVM_GET_DEBUGREGS: return get_debugregs(file, argument);
    case KVM_SET_DEBUGREGS: return set_debugregs(file, argument);
    case KVM_SET_GUEST_DEBUG: return set_guest_debug(file, argument);
    case KVM_TRANSLATE: return translate(file, argument);
    case KVM_GET_LAPIC: return get_lapic(file, argument);
    case KVM_SET_LAPIC: return set_lapic(file, argument);
    case KVM_TPR_ACCESS_REPORTING: return tpr_access_reporting(file, argument);
    case KVM_SET_VAPIC_ADDR: return set_vapic_addr(file, argument);
    case KVM_X86_SETUP_MCE: return setup_mce(file, argument);
    case KVM_X86_SET_MCE: return set_mce(file, argument);
    case KVM_SET_TSC_KHZ: return set_tsc_khz(file, argument);
    case KVM_GET_TSC_KHZ: return get_tsc_khz(file);
    case KVM_KVMCLOCK_CTRL: return kvmclock_ctrl(file);
    case KVM_SET_SIGNAL_MASK: return set_signal_mask(file, argument);
    case KVM_ENABLE_CAP: return enable_cap(file, argument);
    case KVM_HAS_DEVICE_ATTR: return has_vcpu_attribute(file, argument);
    case KVM_GET_DEVICE_ATTR: return get_vcpu_attribute(file, argument);
    case KVM_SET_DEVICE_ATTR: return set_vcpu_attribute(file, argument);
    case KVM_GET_STATS_FD: return get_stats_fd(file);
    default: return -EINVAL;
  }
}

}  // namespace vireo::softkvm::abi
