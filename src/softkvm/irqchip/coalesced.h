// SPDX-License-Identifier: Apache-2.0
// Coalesced writes: guest writes to registered zones of device memory or ports go into a ring that user space empties at its next exit, instead
// of leaving KVM_RUN. Nobody acts on them until then, so the guest learns nothing by them. FAST.
// Spec: Documentation/virt/kvm/api.rst, 4.116.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

#include "softkvm/irqchip/read_section.h"
#include "softkvm/irqchip/spin_lock.h"

namespace vireo::softkvm {

struct CoalescedZones {
  const kvm_coalesced_mmio_zone* zones = nullptr;
  unsigned count = 0;
};

class CoalescedWrites {
 public:
  // A guest write of at most 8 bytes; true if it is in the ring. On the vCPU's thread.
  bool try_push(bool pio, uint64_t address, unsigned size, uint64_t value);

  // Null: no ring, all writes leave. It lies in memory that user space writes, too.
  void set_ring(kvm_coalesced_mmio_ring* ring);

  Published<CoalescedZones> zones;  // owned by abi/

 private:
  bool push(bool pio, uint64_t address, unsigned size, uint64_t value);

  SpinLock lock_;
  kvm_coalesced_mmio_ring* ring_ = nullptr;
};

}  // namespace vireo::softkvm
