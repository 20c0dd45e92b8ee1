// SPDX-License-Identifier: Apache-2.0
// System control port A at 0x92: the fast A20 gate and a fast reset. Address line 20 is always on here, whatever the bit says.
// Spec: IBM PS/2 Technical Reference, system control port A; Intel ICH9 data sheet, 13.7.2.
#pragma once

#include <functional>

#include "devices/device.h"

namespace vireo {

class Port92 final : public Device {
 public:
  static constexpr uint64_t kPorts = 1;
  explicit Port92(std::function<void()> reset_line) : reset_line_(std::move(reset_line)) {}

  void read(Access, std::span<std::byte> data) override { data[0] = std::byte{value_}; }
  void write(Access, std::span<const std::byte> data) override {
    const uint8_t before = value_;
    value_ = std::to_integer<uint8_t>(data[0]) & 3;
    if (!(before & 1) && (value_ & 1)) reset_line_();
  }
  void reset(ResetKind) override { value_ = 2; }
  void fields(Archive& archive) override { archive.field(1, "value", value_); }

 private:
  std::function<void()> reset_line_;
  uint8_t value_ = 2;
};

}  // namespace vireo
