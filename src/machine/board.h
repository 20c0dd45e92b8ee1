// SPDX-License-Identifier: Apache-2.0
// What stands on a machine: its address map and devices.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "devices/char_backend.h"
#include "devices/device.h"
#include "machine/boot.h"

namespace vireo {

class Machine;
class Vga;
struct MachineConfig;
namespace virtio {
class Device;
}

class Board {
 public:
  virtual ~Board() = default;
  static Result<std::unique_ptr<Board>> create(Machine& machine, CharBackend* serial);
  // Where the 32-bit hole of the board's kind begins: RAM goes below it first.
  static uint64_t low_memory_limit(const MachineConfig& config);

  // Before start(): puts a virtio device on the board's transport, on PCI with an option ROM if there is one.
  Result<> add(std::unique_ptr<virtio::Device> device);
  virtual Result<> add(std::unique_ptr<virtio::Device> device, std::vector<std::byte> rom) = 0;
  virtual void reset(ResetKind kind) = 0;
  // Writes the tables the guest shall find, and says what the memory map is.
  virtual Result<BootEnvironment> prepare_boot() = 0;
  virtual void press_power_button() = 0;
  // The screen, or null.
  virtual const Vga* vga() const { return nullptr; }
  // Boards with suspend to RAM: the processors are stopped; where the table lies that says where they go on.
  virtual void sleep() {}
  virtual GuestAddress facs() const { return GuestAddress{0}; }
};

}  // namespace vireo
