// SPDX-License-Identifier: Apache-2.0
// What a device is to the bus: registers at offsets of a region, a reset, and its state. Devices see offsets, never
// addresses, and touch the world only through the pins they are created with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/archive.h"

namespace vireo {

// kWake: power is back after suspend to RAM. What has a supply of its own (clock, ACPI's registers) goes on.
enum class ResetKind { kCold, kWarm, kWake };

// One access: `offset` in the device's region, 1 to 8 bytes (the span's size). Ports come in 1, 2 and 4.
struct Access {
  uint64_t offset = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  // The bus holds the device's lock. `data` is all ones on entry, so what a device leaves untouched reads as open bus.
  virtual void read(Access access, std::span<std::byte> data) = 0;
  virtual void write(Access access, std::span<const std::byte> data) = 0;
  virtual void reset(ResetKind kind) = 0;
  virtual void fields(Archive& archive) = 0;
};

// A level-triggered or pulsed interrupt pin. Thread-safe.
class IrqLine {
 public:
  virtual ~IrqLine() = default;
  virtual void set(bool level) = 0;
  void pulse() {
    set(true);
    set(false);
  }
};

}  // namespace vireo
