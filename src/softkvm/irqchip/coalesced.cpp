// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/coalesced.h"

namespace vireo::softkvm {
namespace {

constexpr uint32_t kRingEntries = (4096 - sizeof(kvm_coalesced_mmio_ring)) / sizeof(kvm_coalesced_mmio);

bool inside(const kvm_coalesced_mmio_zone& zone, bool pio, uint64_t address, unsigned size) {
  return (zone.pio != 0) == pio && address >= zone.addr && address + size >= address && address + size <= zone.addr + zone.size;
}

}  // namespace

bool CoalescedWrites::try_push(bool pio, uint64_t address, unsigned size, uint64_t value) {
  if (zones.current() == nullptr) return false;
  Published<CoalescedZones>::Reader table(zones);
  if (!table) return false;
  for (unsigned i = 0; i < table->count; i++)
    if (inside(table->zones[i], pio, address, size)) return push(pio, address, size, value);
  return false;
}

void CoalescedWrites::set_ring(kvm_coalesced_mmio_ring* ring) {
  SpinGuard guard(lock_);
  ring_ = ring;
}

// User space may have written the indices: they are bounded at each use.
bool CoalescedWrites::push(bool pio, uint64_t address, unsigned size, uint64_t value) {
  SpinGuard guard(lock_);
  if (ring_ == nullptr) return false;
  const uint32_t last = __atomic_load_n(&ring_->last, __ATOMIC_RELAXED), first = __atomic_load_n(&ring_->first, __ATOMIC_ACQUIRE);
  if (last >= kRingEntries || first >= kRingEntries || (last + 1) % kRingEntries == first) return false;
  kvm_coalesced_mmio& entry = ring_->coalesced_mmio[last];
  entry.phys_addr = address;
  entry.len = size;
  __builtin_memcpy(entry.data, &value, sizeof value);
  entry.pio = pio;
  __atomic_store_n(&ring_->last, (last + 1) % kRingEntries, __ATOMIC_RELEASE);
  return true;
}

}  // namespace vireo::softkvm
