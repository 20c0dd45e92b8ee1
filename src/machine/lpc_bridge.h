// SPDX-License-Identifier: Apache-2.0
// The LPC bridge, 8086:2918: where power management's ports are, and which interrupts of the 8259s PCI's go to.
// Spec: Intel ICH9 data sheet, 13.1.
#pragma once

#include <functional>
#include <optional>

#include "devices/pirq.h"
#include "machine/plain_function.h"

namespace vireo {

class LpcBridge final : public PlainFunction {
 public:
  static constexpr uint16_t kPmBase = 0x40, kAcpiControl = 0x44, kPmConfiguration = 0xa0, kRcba = 0xf0;
  struct Pins {
    std::function<void(std::optional<uint16_t>)> pm_base;
    PirqRouter& pirqs;
    std::function<void(bool)> smi_lock = {};  // GEN_PMCON_1's bit; once set it stays until the next reset
  };

  // `pm_base` at power-on; absent: off until firmware says where.
  LpcBridge(std::optional<uint16_t> pm_base, Pins pins)
      : PlainFunction({.vendor = 0x8086, .device = 0x2918, .class_code = 0x060100, .revision = 2, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .interrupt_pin = false}),
        pins_(std::move(pins)) {
    set_config_value<uint32_t>(kPmBase, pm_base.value_or(0) | 1u);
    writable(kPmBase, {0x80, 0xff});
    set_config_value<uint8_t>(kAcpiControl, pm_base ? kEnabled : 0);  // bits 2:0: SCI on IRQ 9
    writable(kAcpiControl, {kEnabled});
    for (uint16_t offset : kRoutes) {
      set_config_value<uint32_t>(offset, 0x80808080);
      writable(offset, {0x8f, 0x8f, 0x8f, 0x8f});
    }
    if (pins_.smi_lock) writable(kPmConfiguration, {kSmiLock});
    writable(kRcba, {0x01, 0xc0, 0xff, 0xff});  // the registers there are not
  }

  std::optional<uint16_t> pm_base() const {
    if (!(byte(kAcpiControl) & kEnabled)) return {};
    return static_cast<uint16_t>(word(kPmBase) & 0xff80);
  }

 private:
  static constexpr uint8_t kEnabled = 0x80, kSmiLock = 0x10;
  static constexpr uint16_t kRoutes[] = {0x60, 0x68};  // PIRQ A to D, E to H

  void after_config_write(uint16_t, size_t) override { tell(); }
  void device_reset(ResetKind) override { tell(); }
  void device_fields(Archive&) override { tell(); }
  void tell() {
    pins_.pm_base(pm_base());
    if (pins_.smi_lock) {
      const bool locked = byte(kPmConfiguration) & kSmiLock;
      writable(kPmConfiguration, {static_cast<uint8_t>(locked ? 0 : kSmiLock)});
      pins_.smi_lock(locked);
    }
    for (unsigned i = 0; i < PirqRouter::kPirqs; i++) pins_.pirqs.route(i, byte(static_cast<uint16_t>(kRoutes[i / 4] + i % 4)));
  }

  Pins pins_;
};

}  // namespace vireo
