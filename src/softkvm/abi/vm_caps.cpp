// SPDX-License-Identifier: Apache-2.0
// What a VM can be told to do otherwise: KVM_ENABLE_CAP and KVM_X86_SET_MSR_FILTER.
#include <algorithm>
#include <cerrno>
#include <memory>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/msr_filter.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_file.h"
#include "softkvm/abi/vm_ioctls.h"

namespace vireo::softkvm::abi {
namespace {

// Quirks that the code minds: MISC_ENABLE_NO_MWAIT, FIX_HYPERCALL_INSN, MWAIT_NEVER_UD_FAULTS. The others' behaviour is not there to be disabled.
constexpr uint32_t kQuirks = 1u << 4 | 1u << 5 | 1u << 6;
constexpr uint64_t kMsrExitReasons = KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;

}  // namespace

const Capability kVmCapabilities[] = {
    {KVM_CAP_ENABLE_CAP},
    {KVM_CAP_ENABLE_CAP_VM},
    {KVM_CAP_MAX_VCPUS, kMaxVcpus},
    {KVM_CAP_MAX_VCPU_ID, kMaxVcpuIds},
    {KVM_CAP_SET_BOOT_CPU_ID},
    {KVM_CAP_SET_TSS_ADDR},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR},
    {KVM_CAP_X86_USER_SPACE_MSR},
    {KVM_CAP_X86_MSR_FILTER},
    {KVM_CAP_DISABLE_QUIRKS},
    {KVM_CAP_DISABLE_QUIRKS2, kQuirks},
    {KVM_CAP_MSR_PLATFORM_INFO},
};
CAPABILITIES(vm_capabilities, kVmCapabilities)

namespace {

int limit_vcpu_ids(VmFile& vm, uint64_t limit) {
  if (limit > kMaxVcpuIds) return -EINVAL;
  std::lock_guard lock(vm.mutex);
  if (vm.max_vcpu_ids == limit) return 0;
  if (vm.max_vcpu_ids != 0) return -EINVAL;
  vm.max_vcpu_ids = static_cast<unsigned>(limit);
  return 0;
}

// A vCPU that runs sees it from its next MSR access on.
int exit_on_msrs(VmFile& vm, uint64_t reasons) {
  if (reasons & ~kMsrExitReasons) return -EINVAL;
  std::lock_guard lock(vm.mutex);
  vm.msr_exit_reasons = static_cast<uint32_t>(reasons);
  for (const auto& file : vm.vcpus) __atomic_store_n(&file->vcpu->msr_exit_reasons, vm.msr_exit_reasons, __ATOMIC_RELAXED);
  return 0;
}

// A vCPU that runs sees it from its next such instruction on.
int disable_quirks(VmFile& vm, uint64_t quirks) {
  std::lock_guard lock(vm.mutex);
  vm.disabled_quirks = static_cast<uint32_t>(quirks);
  for (const auto& file : vm.vcpus) __atomic_store_n(&file->vcpu->disabled_quirks, vm.disabled_quirks, __ATOMIC_RELAXED);
  return 0;
}

int show_platform_info(VmFile& vm, bool shown) {
  std::lock_guard lock(vm.mutex);
  vm.platform_info_shown = shown;
  for (const auto& file : vm.vcpus) __atomic_store_n(&file->vcpu->platform_info_shown, shown, __ATOMIC_RELAXED);
  return 0;
}

}  // namespace

int enable_cap(VmFile& vm, uintptr_t argument) {
  kvm_enable_cap cap;
  if (!copy_in(cap, argument)) return -EFAULT;
  if (cap.flags != 0) return -EINVAL;
  switch (cap.cap) {
    case KVM_CAP_SPLIT_IRQCHIP: return enable_split_irqchip(vm, cap.args[0]);
    case KVM_CAP_X2APIC_API: return enable_x2apic_api(vm, cap.args[0]);
    case KVM_CAP_EXCEPTION_PAYLOAD: vm.exception_payload = cap.args[0] != 0; return 0;
    case KVM_CAP_X86_TRIPLE_FAULT_EVENT: vm.triple_fault_event = cap.args[0] != 0; return 0;
    case KVM_CAP_X86_USER_SPACE_MSR: return exit_on_msrs(vm, cap.args[0]);
    case KVM_CAP_DISABLE_QUIRKS: return disable_quirks(vm, cap.args[0] & kQuirks);
    case KVM_CAP_DISABLE_QUIRKS2: return cap.args[0] & ~static_cast<uint64_t>(kQuirks) ? -EINVAL : disable_quirks(vm, cap.args[0]);
    case KVM_CAP_MSR_PLATFORM_INFO: return show_platform_info(vm, cap.args[0] != 0);
    case KVM_CAP_MAX_VCPU_ID: return limit_vcpu_ids(vm, cap.args[0]);
    case KVM_CAP_DIRTY_LOG_RING:
    case KVM_CAP_DIRTY_LOG_RING_ACQ_REL: return enable_dirty_ring(vm, cap.args[0]);
    case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: return enable_manual_dirty_log(vm, cap.args[0]);
    default: return -EINVAL;
  }
}

int set_msr_filter(VmFile& vm, uintptr_t argument) {
  kvm_msr_filter in;
  if (!copy_in(in, argument)) return -EFAULT;
  if (in.flags & ~static_cast<uint32_t>(KVM_MSR_FILTER_DEFAULT_DENY)) return -EINVAL;
  auto filter = std::make_unique<MsrFilter>();
  filter->default_allow = !(in.flags & KVM_MSR_FILTER_DEFAULT_DENY);
  for (const kvm_msr_filter_range& range : in.ranges) {
    if (range.nmsrs == 0) continue;
    const uint64_t bytes = (static_cast<uint64_t>(range.nmsrs) + 7) / 8;
    if ((range.flags & ~static_cast<uint32_t>(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)) || range.flags == 0) return -EINVAL;
    // The kernel counts in its bitmaps' words.
    if ((bytes + 7) / 8 * 8 > KVM_MSR_FILTER_MAX_BITMAP_SIZE) return -EINVAL;
    uint8_t* bitmap = filter->bitmaps[filter->ranges];
    if (!copy_in(bitmap, reinterpret_cast<uintptr_t>(range.bitmap), (bytes + 7) / 8 * 8)) return -EFAULT;
    filter->range[filter->ranges++] = {range.flags, range.base, range.nmsrs, bitmap};
  }
  // To deny nothing and to deny all without a range that says so is the same: no filter.
  if (filter->ranges == 0 && !filter->default_allow) return -EINVAL;
  std::lock_guard lock(vm.mutex);
  delete vm.vm->msr_filter.replace(filter->ranges == 0 ? nullptr : filter.release());
  return 0;
}

}  // namespace vireo::softkvm::abi
