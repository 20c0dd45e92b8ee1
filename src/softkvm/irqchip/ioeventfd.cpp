// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/ioeventfd.h"

#include "softkvm/irqchip/guest_simd.h"
#include "softkvm/irqchip/raw_syscall.h"

namespace vireo::softkvm {

bool Ioeventfds::try_signal(bool pio, uint64_t address, unsigned size, uint64_t value) {
  if (table_.current() == nullptr) return false;
  Published<RingTable>::Reader table(table_);
  if (!table) return false;
  const Ring::Bus bus = pio ? Ring::kPio : Ring::kMmio;
  if (size < 8) value &= (1ull << (size * 8)) - 1;
  for (uint64_t at = ring_hash(bus, address) & table->mask; table->slots[at].used; at = (at + 1) & table->mask) {
    const Ring& ring = table->slots[at];
    if (ring.address != address || ring.bus != bus) continue;
    if (ring.size != 0 && ring.size != size) continue;
    if (ring.match && ring.value != value) continue;
    if (ring.fd >= 0) {
      signal_eventfd(ring.fd);
    } else {
      GuestSimd aside;
      ring.call(ring.context);
    }
    return true;
  }
  return false;
}

}  // namespace vireo::softkvm
