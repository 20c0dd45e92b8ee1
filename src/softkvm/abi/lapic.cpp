// SPDX-License-Identifier: Apache-2.0
// KVM_GET/SET_LAPIC, KVM_TPR_ACCESS_REPORTING, KVM_SET_VAPIC_ADDR, and the parts of the APIC that other structs carry.
#include "softkvm/irqchip/lapic.h"

#include <cerrno>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/irq.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/cpu/cpuid.h"

namespace vireo::softkvm::abi {

const Capability kLapicCapabilities[] = {
    {KVM_CAP_TSC_DEADLINE_TIMER},
};
CAPABILITIES(lapic_capabilities, kLapicCapabilities)

uint64_t task_priority(VcpuFile& file) {
  return file.has_lapic() ? file.vcpu->lapic->cr8() : file.vcpu->user_cr8;
}

void set_task_priority(VcpuFile& file, uint64_t value) {
  if (value > 15) return;
  if (file.has_lapic()) {
    file.vcpu->lapic->set_cr8(value);
  } else {
    file.vcpu->user_cr8 = value;
  }
}

uint64_t apic_base(VcpuFile& file) { return file.has_lapic() ? file.vcpu->lapic->base() : file.vcpu->user_apic_base; }

bool set_apic_base(VcpuFile& file, uint64_t value) {
  if (file.has_lapic()) return file.vcpu->lapic->set_base(value, true);
  // Nobody looks at it but user space; still only what an APIC could have.
  uint64_t& base = file.vcpu->user_apic_base;
  if (!Lapic::valid_base(value, base, true, file.cpuid.has(kCpuidX2apic), file.vcpu->physical_bits)) return false;
  base = value;
  return true;
}

int set_external_vector(VcpuFile& file, uint8_t vector) {
  Lapic& lapic = *file.vcpu->lapic;
  if (!lapic.external_vector_free()) return -EEXIST;
  lapic.set_external_vector(vector);
  file.vcpu->kick();
  return 0;
}

bool ready_for_interrupt(VcpuFile& file) {
  const IrqchipMode mode = file.vm.irqchip_mode;
  if (mode == IrqchipMode::kKernel) return true;
  const Vcpu& v = *file.vcpu;
  if (!(v.system_flags & kIF) || v.interrupt_shadow_sti || v.interrupt_shadow_mov_ss) return false;
  if (v.user_interrupt >= 0 || v.injected.pending || v.nmi_injected) return false;
  return mode == IrqchipMode::kNone || (v.lapic->takes_extint() && v.lapic->external_vector_free());
}

void update_lapic_features(VcpuFile& file) {
  if (!file.has_lapic()) return;
  const CpuidTable& cpuid = file.cpuid;
  file.vcpu->lapic->set_features({.x2apic = cpuid.has(kCpuidX2apic),
                                  .tsc_deadline = cpuid.has(kCpuidTscDeadline),
                                  .cmci = (file.vcpu->msr.mcg_cap & 1 << 10) != 0,
                                  .directed_eoi = file.vm.irqchip_mode == IrqchipMode::kSplit,
                                  .physical_bits = file.vcpu->physical_bits});
}

int get_lapic(VcpuFile& file, uintptr_t argument) {
  if (!file.has_lapic()) return -EINVAL;
  kvm_lapic_state state{};
  if (int error = file.vcpu->lapic->get_state(state)) return error;
  return copy_out(argument, state) ? 0 : -EFAULT;
}

int set_lapic(VcpuFile& file, uintptr_t argument) {
  if (!file.has_lapic()) return -EINVAL;
  kvm_lapic_state state;
  if (!copy_in(state, argument)) return -EFAULT;
  int result = file.vcpu->lapic->set_state(state);
  file.vcpu->kick();
  return result;
}

// KVM_CAP_VAPIC (a TPR that 32-bit Windows patches into memory) is not offered, as on CPUs that virtualize the APIC: accesses to the TPR
// are not reported, and nothing asks for the page. Callers that set it all the same are let on.
int tpr_access_reporting(VcpuFile& file, uintptr_t argument) {
  kvm_tpr_access_ctl control;
  if (!copy_in(control, argument)) return -EFAULT;
  if (control.flags != 0) return -EINVAL;
  file.tpr_access_reporting = control.enabled;
  return copy_out(argument, control) ? 0 : -EFAULT;
}

int set_vapic_addr(VcpuFile& file, uintptr_t argument) {
  if (!file.has_lapic()) return -EINVAL;
  kvm_vapic_addr address;
  if (!copy_in(address, argument)) return -EFAULT;
  file.vapic_address = address.vapic_addr;
  return 0;
}

}  // namespace vireo::softkvm::abi
