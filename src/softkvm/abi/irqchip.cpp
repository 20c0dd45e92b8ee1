// SPDX-License-Identifier: Apache-2.0
// The interrupt controllers' ioctls: what irqchip/ does, with the arguments fetched.
#include "softkvm/irqchip/irqchip.h"

#include <cerrno>
#include <vector>

#include "base/log.h"
#include "softkvm/abi/capability.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vm_ioctls.h"

namespace vireo::softkvm::abi {

const Capability kIrqCapabilities[] = {
    {KVM_CAP_IRQCHIP},
    {KVM_CAP_IRQ_INJECT_STATUS},
    {KVM_CAP_IRQ_ROUTING, kMaxRoutes},
    {KVM_CAP_PIT},
    {KVM_CAP_PIT2},
    {KVM_CAP_PIT_STATE2},
    {KVM_CAP_REINJECT_CONTROL},
    {KVM_CAP_SIGNAL_MSI},
    {KVM_CAP_IRQFD},
    {KVM_CAP_IRQFD_RESAMPLE},
    {KVM_CAP_IOEVENTFD},
    {KVM_CAP_IOEVENTFD_NO_LENGTH},
    {KVM_CAP_IOEVENTFD_ANY_LENGTH},
    {KVM_CAP_SPLIT_IRQCHIP},
    {KVM_CAP_IOAPIC_POLARITY_IGNORED},
    {KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK},
};
CAPABILITIES(irq_capabilities, kIrqCapabilities)

namespace {

int create(VmFile& vm, const Irqchip::Config& config, IrqchipMode mode) {
  if (vm.irqchip) return -EEXIST;
  if (!vm.vcpus.empty()) return -EINVAL;
  auto chip = Irqchip::create(config);
  if (!chip) {
    log(LogLevel::kError, "%s", chip.error().message.c_str());
    return chip.error().code != 0 ? -chip.error().code : -ENOMEM;
  }
  vm.irqchip = std::move(*chip);
  if (vm.x2apic_api != 0) vm.irqchip->enable_x2apic_api(vm.x2apic_api);
  vm.vm->irqchip = vm.irqchip.get();
  vm.irqchip_mode = mode;
  return 0;
}

}  // namespace

int create_irqchip(VmFile& vm) {
  std::lock_guard lock(vm.mutex);
  return create(vm, {}, IrqchipMode::kKernel);
}

int enable_split_irqchip(VmFile& vm, uint64_t reserved_pins) {
  std::lock_guard lock(vm.mutex);
  if (reserved_pins > kMaxRoutes) return -EINVAL;
  return create(vm, {.split = true, .reserved_pins = static_cast<uint32_t>(reserved_pins)}, IrqchipMode::kSplit);
}

int get_irqchip(VmFile& vm, uintptr_t argument) {
  kvm_irqchip chip;
  if (!copy_in(chip, argument)) return -EFAULT;
  if (vm.irqchip_mode != IrqchipMode::kKernel) return -ENXIO;
  if (int error = vm.irqchip->get_irqchip(chip)) return error;
  return copy_out(argument, chip) ? 0 : -EFAULT;
}

int set_irqchip(VmFile& vm, uintptr_t argument) {
  kvm_irqchip chip;
  if (!copy_in(chip, argument)) return -EFAULT;
  if (vm.irqchip_mode != IrqchipMode::kKernel) return -ENXIO;
  return vm.irqchip->set_irqchip(chip);
}

namespace {

int make_pit(VmFile& vm, uint32_t flags) {
  std::lock_guard lock(vm.mutex);
  if (vm.vm->pit_present) return -EEXIST;
  if (vm.irqchip_mode != IrqchipMode::kKernel) return -ENOENT;
  int result = vm.irqchip->create_pit(flags);
  if (result == 0) vm.vm->pit_present = true;
  return result;
}

}  // namespace

int create_pit(VmFile& vm) { return make_pit(vm, KVM_PIT_SPEAKER_DUMMY); }

int create_pit2(VmFile& vm, uintptr_t argument) {
  kvm_pit_config config;
  if (!copy_in(config, argument)) return -EFAULT;
  return make_pit(vm, config.flags);
}

int get_pit2(VmFile& vm, uintptr_t argument) {
  if (!vm.vm->pit_present) return -ENXIO;
  kvm_pit_state2 state{};
  if (int error = vm.irqchip->get_pit2(state)) return error;
  return copy_out(argument, state) ? 0 : -EFAULT;
}

int set_pit2(VmFile& vm, uintptr_t argument) {
  kvm_pit_state2 state;
  if (!copy_in(state, argument)) return -EFAULT;
  if (!vm.vm->pit_present) return -ENXIO;
  return vm.irqchip->set_pit2(state);
}

int get_pit(VmFile& vm, uintptr_t argument) {
  if (!vm.vm->pit_present) return -ENXIO;
  kvm_pit_state2 state{};
  if (int error = vm.irqchip->get_pit2(state)) return error;
  return copy_out(argument, &state.channels, sizeof(kvm_pit_state)) ? 0 : -EFAULT;
}

int set_pit(VmFile& vm, uintptr_t argument) {
  kvm_pit_state2 state{};
  if (!copy_in(&state.channels, argument, sizeof(kvm_pit_state))) return -EFAULT;
  if (!vm.vm->pit_present) return -ENXIO;
  return vm.irqchip->set_pit2(state);
}

int reinject_control(VmFile& vm, uintptr_t argument) {
  kvm_reinject_control control;
  if (!copy_in(control, argument)) return -EFAULT;
  if (!vm.vm->pit_present) return -ENXIO;
  return vm.irqchip->reinject_control(control);
}

int irq_line(VmFile& vm, uintptr_t argument, bool with_status) {
  kvm_irq_level level;
  if (!copy_in(level, argument)) return -EFAULT;
  if (!vm.has_lapics()) return -ENXIO;
  level.status = vm.irqchip->set_irq(level.irq, level.level != 0);
  return !with_status || copy_out(argument, level) ? 0 : -EFAULT;
}

int set_gsi_routing(VmFile& vm, uintptr_t argument) {
  kvm_irq_routing header;
  if (!copy_in(&header, argument, sizeof header)) return -EFAULT;
  if (!vm.has_lapics() || header.nr > kMaxRoutes || header.flags != 0) return -EINVAL;
  std::vector<kvm_irq_routing_entry> entries(header.nr);
  if (!copy_in(entries.data(), argument + sizeof header, entries.size() * sizeof(kvm_irq_routing_entry))) return -EFAULT;
  std::lock_guard lock(vm.mutex);
  return vm.irqchip->set_gsi_routing(header, entries.data());
}

int signal_msi(VmFile& vm, uintptr_t argument) {
  kvm_msi msi;
  if (!copy_in(msi, argument)) return -EFAULT;
  if (!vm.has_lapics()) return -EINVAL;
  int result = vm.irqchip->signal_msi(msi);
  return result == 0 && vm.vcpu_count == 0 ? -1 : result;  // as the kernel: nobody to send it to is -1, which callers see as EPERM
}

int irqfd(VmFile& vm, uintptr_t argument) {
  kvm_irqfd request;
  if (!copy_in(request, argument)) return -EFAULT;
  if (request.flags & ~static_cast<uint32_t>(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE)) return -EINVAL;
  if (!vm.has_lapics()) return -EINVAL;
  return vm.irqchip->irqfd(request);
}

int ioeventfd(VmFile& vm, uintptr_t argument) {
  kvm_ioeventfd request;
  if (!copy_in(request, argument)) return -EFAULT;
  std::lock_guard lock(vm.mutex);
  return vm.ioeventfds.configure(request);
}

int enable_x2apic_api(VmFile& vm, uint64_t flags) {
  if (flags & ~static_cast<uint64_t>(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)) return -EINVAL;
  std::lock_guard lock(vm.mutex);
  vm.x2apic_api |= flags;
  return vm.irqchip ? vm.irqchip->enable_x2apic_api(flags) : 0;
}

}  // namespace vireo::softkvm::abi
