// SPDX-License-Identifier: Apache-2.0
// The chipset's reset control register at port 0xcf9. Spec: Intel ICH9 data sheet, 13.7.5.
#pragma once

#include <functional>

#include "devices/device.h"

namespace vireo {

class ResetControl final : public Device {
 public:
  explicit ResetControl(std::function<void()> reset_line) : reset_line_(std::move(reset_line)) {}

  void read(Access, std::span<std::byte> data) override { data[0] = std::byte{value_}; }
  void write(Access, std::span<const std::byte> data) override {
    uint8_t before = value_;
    value_ = std::to_integer<uint8_t>(data[0]) & 0x0e;
    // RST_CPU going from 0 to 1 resets; SYS_RST and FULL_RST only choose how hard.
    if (!(before & 4) && (value_ & 4)) reset_line_();
  }
  void reset(ResetKind) override { value_ = 0; }
  void fields(Archive& archive) override { archive.field(1, "value", value_); }

 private:
  std::function<void()> reset_line_;
  uint8_t value_ = 0;
};

}  // namespace vireo
