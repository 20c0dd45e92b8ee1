// SPDX-License-Identifier: Apache-2.0
// Memory slots and their dirty logs, as user space sets them.
#include <cerrno>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vm_ioctls.h"
#include "softkvm/mmu/dirty_ring.h"
#include "softkvm/mmu/large_page_wishes.h"
#include "softkvm/mmu/slots.h"

namespace vireo::softkvm::abi {

const Capability kMemoryCapabilities[] = {
    {KVM_CAP_USER_MEMORY},
    {KVM_CAP_USER_MEMORY2},
    {KVM_CAP_DESTROY_MEMORY_REGION_WORKS},
    {KVM_CAP_JOIN_MEMORY_REGIONS_WORKS},
    {KVM_CAP_NR_MEMSLOTS, kMaxSlots},
    {KVM_CAP_MULTI_ADDRESS_SPACE, kAddressSpaces},  // 1 is system management mode's
    {KVM_CAP_READONLY_MEM},
    {KVM_CAP_SYNC_MMU},  // guest memory is the caller's mapping itself, whatever it becomes
    {KVM_CAP_DIRTY_LOG_RING, DirtyRing::kMaximum * sizeof(kvm_dirty_gfn)},
    {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, DirtyRing::kMaximum * sizeof(kvm_dirty_gfn)},
    {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE},
};
CAPABILITIES(memory_capabilities, kMemoryCapabilities)

namespace {

// The upper half of a slot number is an address space.
bool valid_slot(uint32_t slot) { return slot >> 16 < kAddressSpaces && (slot & 0xffff) < kMaxSlots; }

int set_region(VmFile& vm, const kvm_userspace_memory_region& region) {
  if (!valid_slot(region.slot)) return -EINVAL;
  // User space ends here (with four-level paging); the kernel asks access_ok().
  constexpr uint64_t kUserEnd = 0x7ffffffff000;
  if (region.memory_size != 0 && (region.userspace_addr > kUserEnd || region.memory_size > kUserEnd - region.userspace_addr)) return -EINVAL;
  std::lock_guard lock(vm.slots_mutex);
  if (int error = vm.vm->set_memory_region(region)) return error;
  for (const auto& wish : large_page_wishes().grant(reinterpret_cast<void*>(region.userspace_addr), region.memory_size))
    vm.vm->allow_large_pages(wish.host, wish.size);  // else the kernel alone does it
  return 0;
}

// The slot's number of pages, 0 if it keeps no log. Under slots_mutex.
uint64_t logged_pages(VmFile& vm, uint32_t slot) {
  const Slot* found = vm.vm->slots->by_id(slot);
  return found != nullptr && found->dirty != nullptr ? found->size / kPageSize : 0;
}

}  // namespace

int set_user_memory_region(VmFile& vm, uintptr_t argument) {
  kvm_userspace_memory_region region;
  if (!copy_in(region, argument)) return -EFAULT;
  return set_region(vm, region);
}

int set_user_memory_region2(VmFile& vm, uintptr_t argument) {
  kvm_userspace_memory_region2 region;
  if (!copy_in(region, argument)) return -EFAULT;
  if (region.flags & KVM_MEM_GUEST_MEMFD) return -EINVAL;
  return set_region(vm, {region.slot, region.flags, region.guest_phys_addr, region.memory_size, region.userspace_addr});
}

int get_dirty_log(VmFile& vm, uintptr_t argument) {
  kvm_dirty_log log;
  if (!copy_in(log, argument)) return -EFAULT;
  if (!valid_slot(log.slot)) return -EINVAL;
  std::lock_guard lock(vm.slots_mutex);
  if (vm.dirty_ring_entries != 0) return -ENXIO;
  const uint64_t pages = logged_pages(vm, log.slot);
  if (pages == 0) return -ENOENT;
  std::vector<uint64_t> bitmap((pages + 63) / 64);
  if (int error = vm.vm->get_dirty_log(log.slot, bitmap.data(), false)) return error;
  // Copied out first, and only what user space has got is cleared: a bad pointer loses nothing.
  if (!copy_out(reinterpret_cast<uintptr_t>(log.dirty_bitmap), bitmap.data(), bitmap.size() * 8)) return -EFAULT;
  return vm.manual_dirty_log ? 0 : vm.vm->clear_dirty_log(log.slot, 0, static_cast<uint32_t>(pages), bitmap.data());
}

int clear_dirty_log(VmFile& vm, uintptr_t argument) {
  kvm_clear_dirty_log log;
  if (!copy_in(log, argument)) return -EFAULT;
  if (!valid_slot(log.slot) || (log.first_page & 63)) return -EINVAL;
  std::lock_guard lock(vm.slots_mutex);
  if (vm.dirty_ring_entries != 0) return -ENXIO;
  const uint64_t pages = logged_pages(vm, log.slot);
  if (pages == 0) return -ENOENT;
  if (log.first_page > pages || log.num_pages > pages - log.first_page) return -EINVAL;
  // Whole words, but for the slot's end.
  if (log.num_pages < pages - log.first_page && (log.num_pages & 63)) return -EINVAL;
  std::vector<uint64_t> bitmap((log.num_pages + 63) / 64);
  if (!copy_in(bitmap.data(), reinterpret_cast<uintptr_t>(log.dirty_bitmap), bitmap.size() * 8)) return -EFAULT;
  return vm.vm->clear_dirty_log(log.slot, log.first_page, log.num_pages, bitmap.data());
}

int enable_dirty_ring(VmFile& vm, uint64_t bytes) {
  const uint64_t entries = bytes / sizeof(kvm_dirty_gfn);
  if (bytes == 0 || (bytes & (bytes - 1)) || entries < DirtyRing::kMinimum) return -EINVAL;
  if (entries > DirtyRing::kMaximum) return -E2BIG;
  std::lock_guard lock(vm.mutex);
  if (vm.dirty_ring_entries != 0 || !vm.vcpus.empty()) return -EINVAL;
  vm.dirty_ring_entries = static_cast<uint32_t>(entries);
  return 0;
}

int reset_dirty_rings(VmFile& vm) {
  if (vm.dirty_ring_entries == 0) return -EINVAL;
  std::lock_guard lock(vm.slots_mutex);
  return vm.vm->reset_dirty_rings();
}

int enable_manual_dirty_log(VmFile& vm, uint64_t flags) {
  if (flags & ~static_cast<uint64_t>(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)) return -EINVAL;
  vm.manual_dirty_log = flags != 0;
  return 0;
}

}  // namespace vireo::softkvm::abi
