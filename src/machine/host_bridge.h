// SPDX-License-Identifier: Apache-2.0
// The memory controller hub, 8086:29c0: where the configuration space is seen in memory, and what the BIOS area reads and writes.
// Spec: Intel 3 Series Express Chipset Family data sheet, 5.1.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <span>

#include "machine/plain_function.h"

namespace vireo {

class HostBridge final : public PlainFunction {
 public:
  static constexpr uint16_t kPciExBar = 0x60, kPam = 0x90, kSmram = 0x9d;
  static constexpr unsigned kPamRegisters = 7;
  struct Ecam {
    uint64_t start, size;
  };
  struct Pins {
    std::function<void(std::optional<Ecam>)> ecam;
    std::function<void(std::span<const uint8_t, kPamRegisters>)> pam = {};  // absent: RAM whatever they say
  };

  // `ecam` at power-on; absent: off until firmware says where.
  HostBridge(std::optional<uint64_t> ecam, Pins pins)
      // The subsystem is that of QEMU's machines, by which firmware for them knows that there is fw_cfg.
      : PlainFunction({.vendor = 0x8086, .device = 0x29c0, .class_code = 0x060000, .revision = 2, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .interrupt_pin = false}),
        pins_(std::move(pins)) {
    set_config_value<uint64_t>(kPciExBar, ecam ? *ecam | 1 : 0xe0000000);
    writable(kPciExBar, {0x07, 0x00, 0x00, 0xfc, 0x0f});
    writable(kPam, {0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33});
    set_config_value<uint8_t>(kSmram, 0x12);  // closed and locked: there is no system management mode
  }

  std::optional<Ecam> ecam() const { return decode(word(kPciExBar) | uint64_t{word(kPciExBar + 4)} << 32); }

 private:
  // Bits 2:1: 256, 128 or 64 MiB; the address is a multiple of that.
  static std::optional<Ecam> decode(uint64_t value) {
    const unsigned length = value >> 1 & 3;
    if (!(value & 1) || length == 3) return {};
    const uint64_t size = 0x10000000ull >> length;
    return Ecam{value & 0xfffffffff & ~(size - 1), size};
  }
  void after_config_write(uint16_t offset, size_t size) override {
    if (offset < kPciExBar + 8 && kPciExBar < offset + size) pins_.ecam(ecam());
    if (offset < kPam + kPamRegisters && kPam < offset + size) tell_pam();
  }
  void device_reset(ResetKind) override {
    pins_.ecam(ecam());
    tell_pam();
  }
  void device_fields(Archive&) override {
    pins_.ecam(ecam());
    tell_pam();
  }
  void tell_pam() {
    if (!pins_.pam) return;
    std::array<uint8_t, kPamRegisters> registers;
    for (unsigned i = 0; i < kPamRegisters; i++) registers[i] = byte(kPam + i);
    pins_.pam(registers);
  }

  Pins pins_;
};

}  // namespace vireo
