// SPDX-License-Identifier: Apache-2.0
// Which function is which ioctl of a VM.
#include "softkvm/abi/vm_ioctls.h"

#include <cerrno>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/clock.h"
#include "softkvm/abi/coalesced.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_file.h"

namespace vireo::softkvm::abi {
namespace {

// Intel's CPUs without unrestricted guest mode need a TSS and an identity-mapped page for real mode. Here nothing does; the addresses are
// checked and kept.
int set_tss_addr(VmFile& vm, uintptr_t address) {
  if (address > 0xffffffff - 3 * 4096 + 1) return -EINVAL;
  std::lock_guard lock(vm.mutex);
  vm.tss_address = address;
  return 0;
}

int set_identity_map_addr(VmFile& vm, uintptr_t argument) {
  uint64_t address;
  std::lock_guard lock(vm.mutex);
  if (!vm.vcpus.empty()) return -EINVAL;
  if (!copy_in(address, argument)) return -EFAULT;
  vm.identity_map_address = address;
  return 0;
}

int set_boot_cpu_id(VmFile& vm, uintptr_t id) {
  std::lock_guard lock(vm.mutex);
  if (!vm.vcpus.empty()) return -EBUSY;
  if (id >= kMaxVcpuIds) return -EINVAL;
  vm.boot_cpu_id = static_cast<unsigned>(id);
  return 0;
}

// There is no shadow page table whose size could be limited.
int set_nr_mmu_pages(uintptr_t pages) {
  constexpr uintptr_t kMinimum = 64;
  return pages < kMinimum ? -EINVAL : 0;
}

int create_device(uintptr_t argument) {
  kvm_create_device device;
  if (!copy_in(device, argument)) return -EFAULT;
  return -ENODEV;  // of no type
}

}  // namespace

int vm_ioctl(const std::shared_ptr<VmFile>& file, unsigned long request, uintptr_t argument) {
  VmFile& vm = *file;
  switch (request) {
    case KVM_CREATE_VCPU: return VcpuFile::create(file, argument);
    case KVM_CHECK_EXTENSION: return check_extension(&vm, argument);
    case KVM_ENABLE_CAP: return enable_cap(vm, argument);
    case KVM_SET_USER_MEMORY_REGION: return set_user_memory_region(vm, argument);
    case KVM_SET_USER_MEMORY_REGION2: return set_user_memory_region2(vm, argument);
    case KVM_GET_DIRTY_LOG: return get_dirty_log(vm, argument);
    case KVM_RESET_DIRTY_RINGS: return reset_dirty_rings(vm);
    case KVM_CLEAR_DIRTY_LOG: return clear_dirty_log(vm, argument);
    case KVM_SET_TSS_ADDR: return set_tss_addr(vm, argument);
    case KVM_SET_IDENTITY_MAP_ADDR: return set_identity_map_addr(vm, argument);
    case KVM_SET_NR_MMU_PAGES: return set_nr_mmu_pages(argument);
    case KVM_SET_BOOT_CPU_ID: return set_boot_cpu_id(vm, argument);
    case KVM_CREATE_IRQCHIP: return create_irqchip(vm);
    case KVM_GET_IRQCHIP: return get_irqchip(vm, argument);
    case KVM_SET_IRQCHIP: return set_irqchip(vm, argument);
    case KVM_CREATE_PIT: return create_pit(vm);
    case KVM_CREATE_PIT2: return create_pit2(vm, argument);
    case KVM_GET_PIT: return get_pit(vm, argument);
    case KVM_SET_PIT: return set_pit(vm, argument);
    case KVM_GET_PIT2: return get_pit2(vm, argument);
    case KVM_SET_PIT2: return set_pit2(vm, argument);
    case KVM_REINJECT_CONTROL: return reinject_control(vm, argument);
    case KVM_IRQ_LINE: return irq_line(vm, argument, false);
    case KVM_IRQ_LINE_STATUS: return irq_line(vm, argument, true);
    case KVM_SET_GSI_ROUTING: return set_gsi_routing(vm, argument);
    case KVM_SIGNAL_MSI: return signal_msi(vm, argument);
    case KVM_IRQFD: return irqfd(vm, argument);
    case KVM_IOEVENTFD: return ioeventfd(vm, argument);
    case KVM_REGISTER_COALESCED_MMIO: return register_coalesced(vm, argument);
    case KVM_UNREGISTER_COALESCED_MMIO: return unregister_coalesced(vm, argument);
    case KVM_GET_CLOCK: return get_clock(vm, argument);
    case KVM_SET_CLOCK: return set_clock(vm, argument);
    case KVM_SET_TSC_KHZ: return set_vm_tsc_khz(vm, argument);
    case KVM_GET_TSC_KHZ: return get_vm_tsc_khz(vm);
    case KVM_X86_SET_MSR_FILTER: return set_msr_filter(vm, argument);
    case KVM_GET_STATS_FD: return get_stats_fd(vm);
    case KVM_CREATE_DEVICE: return create_device(argument);
    default: return -ENOTTY;
  }
}

}  // namespace vireo::softkvm::abi
