// SPDX-License-Identifier: Apache-2.0
// The memory controller hub, 8086:29c0: where the configuration space is seen in memory, what the BIOS area reads and writes, and which memory
// system management mode has for itself. Spec: Intel 3 Series Express Chipset Family data sheet, 5.1; the register at 0x50 is QEMU's, by which
// firmware finds more of that than the chip had.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <span>

#include "machine/plain_function.h"

namespace vireo {

class HostBridge final : public PlainFunction {
 public:
  static constexpr uint16_t kPciExBar = 0x60, kPam = 0x90, kSmram = 0x9d, kEsmramc = 0x9e, kExtendedTseg = 0x50;
  static constexpr uint16_t kGgc = 0x52, kGbsm = 0xa4, kBgsm = 0xa8, kTsegBase = 0xac, kTolud = 0xb0;
  static constexpr uint16_t kExtendedTsegMiB = 16;
  static constexpr unsigned kPamRegisters = 7;
  struct Ecam {
    uint64_t start, size;
  };
  // What of the memory is system management mode's alone.
  struct Smram {
    bool compatible = false;  // the RAM behind video memory, 0xa0000 to 0xbffff
    bool open = false;        // ... and everybody's
    uint64_t tseg = 0;        // so many bytes at the end of the memory below 4 GiB
    bool operator==(const Smram&) const = default;
  };
  struct Pins {
    std::function<void(std::optional<Ecam>)> ecam;
    std::function<void(std::span<const uint8_t, kPamRegisters>)> pam = {};  // absent: RAM whatever they say
    std::function<void(const Smram&)> smram = {};                             // absent: there is no system management mode
  };

  // `ecam` at power-on; absent: off until firmware says where.
  HostBridge(std::optional<uint64_t> ecam, Pins pins)
      // The subsystem is that of QEMU's machines, by which firmware for them knows that there is fw_cfg.
      : PlainFunction({.vendor = 0x8086, .device = 0x29c0, .class_code = 0x060000, .revision = 2, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .interrupt_pin = false}),
        pins_(std::move(pins)) {
    set_config_value<uint64_t>(kPciExBar, ecam ? *ecam | 1 : 0xe0000000);
    writable(kPciExBar, {0x07, 0x00, 0x00, 0xfc, 0x0f});
    writable(kPam, {0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33});
    set_config_value<uint8_t>(kSmram, pins_.smram ? kBaseSegment : kBaseSegment | kLocked);
    if (!pins_.smram) return;
    set_config_value<uint8_t>(kEsmramc, 0x38);
    writable(kExtendedTseg, {0xff, 0xff});
    // What memory the processors' own begins behind is firmware's to say and to read again; here it follows from how much there is.
    writable(kGgc, {0xf2, 0x03});
    for (uint16_t base : {kGbsm, kBgsm, kTsegBase}) writable(base, {0x00, 0x00, 0xf0, 0xff});
    writable(kTolud, {0xf0, 0xff});
    let_smram_be_set(true);
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
    if (!pins_.smram) return;
    if (offset < kExtendedTseg + 2 && kExtendedTseg < offset + size && (word(kExtendedTseg) & 0xffff) == 0xffff) put<uint16_t>(kExtendedTseg, kExtendedTsegMiB);
    if (offset <= kEsmramc && kSmram < offset + size) tell_smram();
  }
  void device_reset(ResetKind) override {
    pins_.ecam(ecam());
    tell_pam();
    tell_smram();
  }
  void device_fields(Archive&) override {
    pins_.ecam(ecam());
    tell_pam();
    tell_smram();
  }
  void tell_pam() {
    if (!pins_.pam) return;
    std::array<uint8_t, kPamRegisters> registers;
    for (unsigned i = 0; i < kPamRegisters; i++) registers[i] = byte(kPam + i);
    pins_.pam(registers);
  }

  // D_LCK, once set, keeps both registers as they are until the next reset, and closes.
  void tell_smram() {
    if (!pins_.smram) return;
    const bool locked = byte(kSmram) & kLocked;
    if (locked) put<uint8_t>(kSmram, byte(kSmram) & ~kOpen);
    let_smram_be_set(!locked);
    const uint8_t smram = byte(kSmram), extended = byte(kEsmramc);
    Smram now{.compatible = (smram & kEnabled) != 0};
    now.open = now.compatible && (smram & (kOpen | kClosed)) == kOpen;
    constexpr uint64_t kMiB = 1 << 20, kSizes[] = {kMiB, 2 * kMiB, 8 * kMiB, kExtendedTsegMiB * kMiB};
    if (now.compatible && extended & kTsegEnabled) now.tseg = kSizes[extended >> 1 & 3];
    pins_.smram(now);
  }
  void let_smram_be_set(bool may) {
    writable(kSmram, {static_cast<uint8_t>(may ? kOpen | kClosed | kLocked | kEnabled : 0)});
    writable(kEsmramc, {static_cast<uint8_t>(may ? 0x07 : 0)});  // no SMRAM seen high: H_SMRAME stays 0
  }
  template <class T>
  void put(uint16_t offset, T value) {
    memcpy(config().data() + offset, &value, sizeof value);
  }

  // Of SMRAM: where it is (fixed), G_SMRAME, D_LCK, D_CLS, D_OPEN; of ESMRAMC: T_EN, with the size above it.
  static constexpr uint8_t kBaseSegment = 0x02, kEnabled = 0x08, kLocked = 0x10, kClosed = 0x20, kOpen = 0x40, kTsegEnabled = 0x01;
  Pins pins_;
};

}  // namespace vireo
