// SPDX-License-Identifier: Apache-2.0
// KVM_GET/SET_VCPU_EVENTS, KVM_GET/SET_MP_STATE, KVM_INTERRUPT, KVM_NMI, KVM_SMI: what is on its way into the vCPU.
// An exception is "pending" in the ABI while CR2 or DR6 do not show it yet (its payload travels along) and "injected" afterwards. Callers
// that did not ask for KVM_CAP_EXCEPTION_PAYLOAD know only the second kind.
#include <cerrno>
#include <cstring>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/irq.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_ioctls.h"

namespace vireo::softkvm::abi {

const Capability kEventsCapabilities[] = {
    {KVM_CAP_VCPU_EVENTS},
    {KVM_CAP_MP_STATE},
    {KVM_CAP_USER_NMI},
    {KVM_CAP_X86_SMM},
    {KVM_CAP_EXCEPTION_PAYLOAD},
    {KVM_CAP_X86_TRIPLE_FAULT_EVENT},
};
CAPABILITIES(events_capabilities, kEventsCapabilities)

namespace {

// DR6 bits that are reported by being clear.
constexpr uint64_t kDr6ActiveLow = 0xffff0ff0;

void apply_payload(Vcpu& v) {
  PendingException& e = v.injected;
  if (e.vector == kPFv) v.cr2 = e.payload;
  if (e.vector == kDB && e.payload != 0) {
    v.dr6 = (v.dr6 | (e.payload & ~kDr6ActiveLow)) & ~(e.payload & kDr6ActiveLow);
    e.payload = 0;
  }
}

}  // namespace

// What the engine has left in `injected` (a delivery that met a device) carries its payload with it; the ABI's "injected" has it in CR2 or
// DR6. Called before the vCPU runs (the registers are true) and after (the payload is).
void settle_injected_exception(Vcpu& v, bool before_run) {
  if (!v.injected.pending) {
    v.injected_is_pending = v.injected_has_payload = false;
    return;
  }
  if (v.injected_is_pending && v.injected_has_payload) return;
  if (before_run) {
    v.injected.payload = v.injected.vector == kPFv ? v.cr2 : 0;
  } else {
    apply_payload(v);
  }
}

void save_events(VcpuFile& file, kvm_vcpu_events& out) {
  Vcpu& v = *file.vcpu;
  std::memset(&out, 0, sizeof out);
  const bool payloads = file.vm.exception_payload;
  if (v.injected.pending && v.injected_is_pending && v.injected_has_payload && !payloads) {
    apply_payload(v);
    v.injected_has_payload = false;
  }
  const PendingException& e = v.injected;
  if (e.pending && !e.software && !e.interrupt) {
    out.exception.pending = payloads && v.injected_is_pending;
    out.exception.injected = !out.exception.pending;
    out.exception.nr = e.vector;
    out.exception.has_error_code = e.has_error;
    out.exception.error_code = e.error;
    if (out.exception.pending && v.injected_has_payload) {
      out.exception_has_payload = 1;
      out.exception_payload = e.payload;
    }
  }
  out.interrupt.injected = v.user_interrupt >= 0 && !v.user_interrupt_soft;
  out.interrupt.nr = out.interrupt.injected ? static_cast<uint8_t>(v.user_interrupt) : 0;
  if (e.pending && e.interrupt) {
    out.interrupt.injected = 1;
    out.interrupt.nr = e.vector;
  }
  out.interrupt.shadow = static_cast<uint8_t>((v.interrupt_shadow_mov_ss ? KVM_X86_SHADOW_INT_MOV_SS : 0) |
                                              (v.interrupt_shadow_sti ? KVM_X86_SHADOW_INT_STI : 0));
  out.nmi.injected = v.nmi_injected;
  out.nmi.pending = v.nmi_pending || v.nmi_request;  // as a flag, whatever the number
  out.nmi.masked = v.nmi_masked;
  out.smi.smm = v.in_smm;
  out.smi.pending = v.smi_pending || v.smi_request;
  out.smi.smm_inside_nmi = v.in_smm && v.smm_nmi_masked;
  out.smi.latched_init = v.init_pending;
  out.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
  if (payloads) out.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
  if (file.vm.triple_fault_event) {
    out.triple_fault.pending = v.triple_fault_pending;
    out.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
  }
}

int load_events(VcpuFile& file, const kvm_vcpu_events& in) {
  Vcpu& v = *file.vcpu;
  constexpr uint32_t kKnown = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW |
                              KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
  if (in.flags & ~kKnown) return -EINVAL;
  bool pending = false, injected = in.exception.injected, has_payload = false;
  if (in.flags & KVM_VCPUEVENT_VALID_PAYLOAD) {
    if (!file.vm.exception_payload) return -EINVAL;
    pending = in.exception.pending;
    if (pending) injected = false;
    has_payload = pending && in.exception_has_payload;
  }
  if ((injected || pending) && (in.exception.nr > 31 || in.exception.nr == kNMI)) return -EINVAL;
  if (in.flags & KVM_VCPUEVENT_VALID_SMM) {
    if ((in.smi.smm || in.smi.pending) && v.mp_state == KVM_MP_STATE_INIT_RECEIVED) return -EINVAL;
  }
  if ((in.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && !file.vm.triple_fault_event) return -EINVAL;

  v.injected = {};
  if (injected || pending) {
    v.injected.pending = true;
    v.injected.vector = in.exception.nr;
    v.injected.has_error = in.exception.has_error_code;
    v.injected.error = in.exception.error_code;
    v.injected.payload = has_payload ? in.exception_payload : 0;
  }
  v.injected_is_pending = pending;
  v.injected_has_payload = has_payload;
  v.user_interrupt = in.interrupt.injected ? in.interrupt.nr : -1;
  v.user_interrupt_soft = in.interrupt.injected && in.interrupt.soft;
  if (in.flags & KVM_VCPUEVENT_VALID_SHADOW) {
    v.interrupt_shadow_mov_ss = in.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
    v.interrupt_shadow_sti = in.interrupt.shadow & KVM_X86_SHADOW_INT_STI;
  }
  v.nmi_injected = in.nmi.injected;
  if (in.flags & KVM_VCPUEVENT_VALID_NMI_PENDING) {
    v.nmi_request = 0;
    v.nmi_pending = in.nmi.pending != 0;
  }
  v.nmi_masked = in.nmi.masked;
  if ((in.flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR) && file.has_lapic()) v.sipi_vector = static_cast<uint8_t>(in.sipi_vector);
  if (in.flags & KVM_VCPUEVENT_VALID_SMM) {
    v.in_smm = in.smi.smm;
    v.smi_request = false;
    v.smi_pending = in.smi.pending;
    if (in.smi.smm) v.smm_nmi_masked = in.smi.smm_inside_nmi;
    if (file.has_lapic()) v.init_pending = in.smi.latched_init;
  }
  if (in.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) v.triple_fault_pending = in.triple_fault.pending;
  v.state_changed();
  return 0;
}

int get_events(VcpuFile& file, uintptr_t argument) {
  kvm_vcpu_events events;
  save_events(file, events);
  return copy_out(argument, events) ? 0 : -EFAULT;
}

int set_events(VcpuFile& file, uintptr_t argument) {
  kvm_vcpu_events events;
  if (!copy_in(events, argument)) return -EFAULT;
  return load_events(file, events);
}

int interrupt(VcpuFile& file, uintptr_t argument) {
  kvm_interrupt in;
  if (!copy_in(in, argument)) return -EFAULT;
  if (in.irq >= KVM_NR_INTERRUPTS) return -EINVAL;
  Vcpu& v = *file.vcpu;
  switch (file.vm.irqchip_mode.load()) {
    case IrqchipMode::kKernel:
      return -ENXIO;
    case IrqchipMode::kSplit:
      return set_external_vector(file, static_cast<uint8_t>(in.irq));
    case IrqchipMode::kNone:
      break;
  }
  v.user_interrupt = static_cast<int>(in.irq);
  v.user_interrupt_soft = false;
  v.kick();  // not state_changed(): an access that waits for user space's answer stays open
  return 0;
}

int nmi(VcpuFile& file) {
  if (file.vcpu->nmi_request.load() < 2) file.vcpu->nmi_request.fetch_add(1);
  file.vcpu->kick();
  return 0;
}

int smi(VcpuFile& file) {
  file.vcpu->smi_request = true;
  file.vcpu->kick();
  return 0;
}

// What another vCPU has sent is applied first, as the kernel's KVM does: else a SIPI would be in none of the structs.
int get_mp_state(VcpuFile& file, uintptr_t argument) {
  file.vcpu->accept_startup();
  kvm_mp_state state{file.vcpu->mp_state.load()};
  return copy_out(argument, state) ? 0 : -EFAULT;
}

int set_mp_state(VcpuFile& file, uintptr_t argument) {
  kvm_mp_state in;
  if (!copy_in(in, argument)) return -EFAULT;
  Vcpu& v = *file.vcpu;
  switch (in.mp_state) {
    case KVM_MP_STATE_RUNNABLE:
      break;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_HALTED:
    case KVM_MP_STATE_INIT_RECEIVED:
    case KVM_MP_STATE_SIPI_RECEIVED:
      if (!file.has_lapic()) return -EINVAL;
      break;
    default:
      return -EINVAL;
  }
  bool starting = in.mp_state == KVM_MP_STATE_INIT_RECEIVED || in.mp_state == KVM_MP_STATE_SIPI_RECEIVED;
  if (starting && (v.in_smm || v.smi_pending)) return -EINVAL;
  if (in.mp_state == KVM_MP_STATE_SIPI_RECEIVED) v.sipi_pending = true;
  v.mp_state = in.mp_state == KVM_MP_STATE_SIPI_RECEIVED ? KVM_MP_STATE_INIT_RECEIVED : in.mp_state;
  v.kick();
  return 0;
}

}  // namespace vireo::softkvm::abi
