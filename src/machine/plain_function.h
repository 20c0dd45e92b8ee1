// SPDX-License-Identifier: Apache-2.0
// A PCI function of the chipset that is nothing but registers in configuration space.
#pragma once

#include <cstring>
#include <initializer_list>

#include "devices/pci_device.h"

namespace vireo {

class PlainFunction : public PciDevice {
 public:
  explicit PlainFunction(const Identity& identity) : PciDevice(identity, {}) {}

 protected:
  void read_bar(unsigned, Access, std::span<std::byte>) override {}
  void write_bar(unsigned, Access, std::span<const std::byte>) override {}
  void device_reset(ResetKind) override {}
  void device_fields(Archive&) override {}

  void writable(uint16_t offset, std::initializer_list<uint8_t> mask) { set_write_mask(offset, std::as_bytes(std::span(mask))); }
  uint8_t byte(uint16_t offset) const { return std::to_integer<uint8_t>(const_cast<PlainFunction*>(this)->config()[offset]); }
  uint32_t word(uint16_t offset) const {
    uint32_t value;
    memcpy(&value, const_cast<PlainFunction*>(this)->config().data() + offset, sizeof value);
    return value;
  }
};

}  // namespace vireo
