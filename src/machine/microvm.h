// SPDX-License-Identifier: Apache-2.0
// The small board: no PCI; virtio devices memory-mapped from 0xd0000000, found by the guest through ACPI.
#pragma once

#include <memory>
#include <vector>

#include "machine/board.h"
#include "machine/pc_devices.h"

namespace vireo {

class Microvm final : public Board {
 public:
  static constexpr uint64_t kLowMemoryLimit = 0xc0000000;
  static Result<std::unique_ptr<Microvm>> create(Machine& machine, CharBackend* serial);

  using Board::add;
  Result<> add(std::unique_ptr<virtio::Device> device, std::vector<std::byte> rom) override;
  void reset(ResetKind kind) override;
  Result<BootEnvironment> prepare_boot() override;
  void press_power_button() override { pc_->pm().power_button(); }

 private:
  static constexpr uint64_t kWindow = 0xd0000000, kStride = 0x200;  // a page holds eight
  static constexpr unsigned kMostDevices = 32;
  struct Slot {
    uint64_t address;
    unsigned gsi;
    std::unique_ptr<Device> transport;
  };

  explicit Microvm(Machine& machine) : machine_(machine) {}
  static unsigned gsi_of(size_t index) { return 16 + index % 8; }

  Machine& machine_;
  std::unique_ptr<PcDevices> pc_;
  std::vector<Slot> slots_;
};

}  // namespace vireo
