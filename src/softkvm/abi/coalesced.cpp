// SPDX-License-Identifier: Apache-2.0
// Spec: Documentation/virt/kvm/api.rst, 4.116.
#include "softkvm/abi/coalesced.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/user_memory.h"

namespace vireo::softkvm::abi {

const Capability kCoalescedCapabilities[] = {
    {KVM_CAP_COALESCED_MMIO, KVM_COALESCED_MMIO_PAGE_OFFSET},
    {KVM_CAP_COALESCED_PIO},
};
CAPABILITIES(coalesced_capabilities, kCoalescedCapabilities)

namespace {

constexpr uint32_t kRingEntries = (4096 - sizeof(kvm_coalesced_mmio_ring)) / sizeof(kvm_coalesced_mmio);
constexpr size_t kMaxZones = 1000;  // the kernel's bus has as many places (NR_IOBUS_DEVS)

bool inside(const kvm_coalesced_mmio_zone& zone, bool pio, uint64_t address, uint32_t size) {
  return (zone.pio != 0) == pio && address >= zone.addr && address + size >= address && address + size <= zone.addr + zone.size;
}

// The ring lies in memory that user space writes, too: its indices are bounded at each use.
bool push(kvm_coalesced_mmio_ring& ring, bool pio, uint64_t address, const void* data, uint32_t size) {
  uint32_t last = __atomic_load_n(&ring.last, __ATOMIC_RELAXED);
  uint32_t first = __atomic_load_n(&ring.first, __ATOMIC_ACQUIRE);
  if (last >= kRingEntries || first >= kRingEntries || (last + 1) % kRingEntries == first) return false;
  kvm_coalesced_mmio& entry = ring.coalesced_mmio[last];
  entry.phys_addr = address;
  entry.len = size;
  std::memcpy(entry.data, data, size);
  entry.pio = pio;
  __atomic_store_n(&ring.last, (last + 1) % kRingEntries, __ATOMIC_RELEASE);
  return true;
}

}  // namespace

int register_coalesced(VmFile& vm, uintptr_t argument) {
  kvm_coalesced_mmio_zone zone;
  if (!copy_in(zone, argument)) return -EFAULT;
  if (zone.pio > 1) return -EINVAL;
  std::lock_guard lock(vm.zones_mutex);
  if (vm.zones.size() >= kMaxZones) return -ENOSPC;
  vm.zones.push_back(zone);
  vm.any_zone = true;
  return 0;
}

int unregister_coalesced(VmFile& vm, uintptr_t argument) {
  kvm_coalesced_mmio_zone zone;
  if (!copy_in(zone, argument)) return -EFAULT;
  if (zone.pio > 1) return -EINVAL;
  std::lock_guard lock(vm.zones_mutex);
  std::erase_if(vm.zones, [&](const auto& known) { return inside(known, zone.pio != 0, zone.addr, zone.size); });
  vm.any_zone = !vm.zones.empty();
  return 0;
}

bool coalesce_exit(VcpuFile& file) {
  if (!file.vm.any_zone.load(std::memory_order_relaxed) || file.vm.vcpu_count != 1) return false;
  const kvm_run& run = file.run();
  bool pio;
  uint64_t address;
  uint32_t size;
  const void* data;
  if (run.exit_reason == KVM_EXIT_MMIO && run.mmio.is_write) {
    pio = false, address = run.mmio.phys_addr, size = run.mmio.len, data = run.mmio.data;
  } else if (run.exit_reason == KVM_EXIT_IO && run.io.direction == KVM_EXIT_IO_OUT && run.io.count == 1 &&
             run.io.data_offset <= kVcpuMmapSize - 8) {
    pio = true, address = run.io.port, size = run.io.size, data = file.pages + run.io.data_offset;
  } else {
    return false;
  }
  if (size > 8) return false;
  std::lock_guard lock(file.vm.zones_mutex);
  auto hit = [&](const auto& zone) { return inside(zone, pio, address, size); };
  return std::ranges::any_of(file.vm.zones, hit) && push(file.coalesced_ring(), pio, address, data, size);
}

}  // namespace vireo::softkvm::abi
