// SPDX-License-Identifier: Apache-2.0
// Spec: Documentation/virt/kvm/api.rst, 4.116.
#include "softkvm/abi/coalesced.h"

#include <algorithm>
#include <cerrno>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/user_memory.h"

namespace vireo::softkvm::abi {

const Capability kCoalescedCapabilities[] = {
    {KVM_CAP_COALESCED_MMIO, KVM_COALESCED_MMIO_PAGE_OFFSET},
    {KVM_CAP_COALESCED_PIO},
};
CAPABILITIES(coalesced_capabilities, kCoalescedCapabilities)

namespace {

constexpr size_t kMaxZones = 1000;  // the kernel's bus has as many places (NR_IOBUS_DEVS)

bool inside(const kvm_coalesced_mmio_zone& inner, const kvm_coalesced_mmio_zone& outer) {
  const uint64_t end = inner.addr + inner.size;
  return (inner.pio != 0) == (outer.pio != 0) && inner.addr >= outer.addr && end >= inner.addr && end <= outer.addr + outer.size;
}

void publish(Coalesced& coalesced) {
  coalesced.table = {coalesced.list.data(), static_cast<unsigned>(coalesced.list.size())};
  coalesced.writes.zones.replace(coalesced.list.empty() ? nullptr : &coalesced.table);
}

}  // namespace

int register_coalesced(VmFile& vm, uintptr_t argument) {
  kvm_coalesced_mmio_zone zone;
  if (!copy_in(zone, argument)) return -EFAULT;
  if (zone.pio > 1) return -EINVAL;
  std::lock_guard lock(vm.coalesced.mutex);
  if (vm.coalesced.list.size() >= kMaxZones) return -ENOSPC;
  vm.coalesced.writes.zones.replace(nullptr);  // nobody reads the list while it changes
  vm.coalesced.list.push_back(zone);
  publish(vm.coalesced);
  return 0;
}

int unregister_coalesced(VmFile& vm, uintptr_t argument) {
  kvm_coalesced_mmio_zone zone;
  if (!copy_in(zone, argument)) return -EFAULT;
  if (zone.pio > 1) return -EINVAL;
  std::lock_guard lock(vm.coalesced.mutex);
  vm.coalesced.writes.zones.replace(nullptr);
  std::erase_if(vm.coalesced.list, [&](const auto& known) { return inside(zone, known); });
  publish(vm.coalesced);
  return 0;
}

void choose_ring(VmFile& vm) {
  vm.coalesced.writes.set_ring(vm.vcpus.size() == 1 ? &vm.vcpus.front()->coalesced_ring() : nullptr);
}

}  // namespace vireo::softkvm::abi
