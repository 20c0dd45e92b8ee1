// SPDX-License-Identifier: Apache-2.0
// The BIOS area from 0xc0000 to 1 MiB: each of 13 segments reads from RAM or from what lies on the bus (the firmware's ROM in the upper half), and
// writes to RAM or to nobody, as the host bridge's PAM registers say. What reads without an exit is a memory slot; the rest are accesses to this
// device. Spec: Intel 3 Series Express Chipset Family data sheet, 5.1.13, PAM0 to PAM6.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <span>

#include "base/result.h"
#include "devices/device.h"

namespace vireo {

class ShadowMemory final : public Device {
 public:
  static constexpr uint64_t kStart = 0xc0000, kEnd = 0x100000, kSize = kEnd - kStart;
  static constexpr unsigned kRegisters = 7, kSegments = 13;
  // A memory slot of the hypervisor, by number from 0 to kSegments - 1; size 0 deletes it.
  using SetSlot = std::function<Result<>(unsigned slot, uint64_t start, uint64_t size, const std::byte* host, bool read_only)>;
  struct Config {
    std::span<std::byte> ram;        // of the whole area
    std::span<const std::byte> rom;  // ends at 1 MiB; at most 128 KiB are seen
  };

  ShadowMemory(Config config, SetSlot set_slot, std::function<void(uint64_t start, uint64_t size)> notice_write);

  Result<> set(std::span<const uint8_t, kRegisters> registers);

  void read(Access access, std::span<std::byte> data) override;
  void write(Access access, std::span<const std::byte> data) override;
  void reset(ResetKind) override {}  // the registers are the host bridge's
  void fields(Archive&) override {}

 private:
  static constexpr uint8_t kReadRam = 1, kWriteRam = 2;
  static constexpr uint64_t kRomSize = 0x20000;
  struct Slot {
    uint64_t size = 0;
    const std::byte* host = nullptr;
    bool read_only = false;
    unsigned number = 0;
    bool same(const Slot& other) const { return size == other.size && host == other.host && read_only == other.read_only; }
  };
  static uint64_t start_of(unsigned segment) { return kStart + segment * 0x4000; }
  static uint64_t size_of(unsigned segment) { return segment == kSegments - 1 ? 0x10000 : 0x4000; }
  static unsigned segment_of(uint64_t offset) { return std::min<unsigned>(static_cast<unsigned>(offset / 0x4000), kSegments - 1); }
  const std::byte* rom_at(uint64_t address) const;
  std::map<uint64_t, Slot> wanted() const;

  Config config_;
  SetSlot set_slot_;
  std::function<void(uint64_t, uint64_t)> notice_write_;
  std::array<uint8_t, kSegments> attributes_{};
  std::map<uint64_t, Slot> slots_;  // by start
};

}  // namespace vireo
