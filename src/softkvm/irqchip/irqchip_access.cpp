// SPDX-License-Identifier: Apache-2.0
// Guest accesses to the VM-wide controllers.
#include "softkvm/irqchip/irqchip.h"

namespace vireo::softkvm {

bool Irqchip::pio(uint16_t port, unsigned size, bool write, uint32_t& value) {
  if (pic_ && Pic::covers(port)) {
    // The PICs sit on a byte bus; KVM answers wider accesses with zeros and drops wider writes.
    if (size != 1) {
      if (!write) value = 0;
    } else if (write) {
      pic_->write(port, static_cast<uint8_t>(value));
    } else {
      value = pic_->read(port);
    }
    return true;
  }
  Pit* pit = pit_.load();
  if (pit == nullptr || !pit->covers(port)) return false;
  if (write)
    pit->write(port, static_cast<uint8_t>(value));
  else
    value = pit->read(port);
  return true;
}

bool Irqchip::mmio(uint64_t address, unsigned size, bool write, uint64_t& value) {
  if (!ioapic_ || !ioapic_->covers(address)) return false;
  const uint32_t offset = static_cast<uint32_t>(address) & 0xff;
  if (write)
    ioapic_->mmio_write(offset, size, value);
  else
    value = ioapic_->mmio_read(offset, size);
  return true;
}

}  // namespace vireo::softkvm
