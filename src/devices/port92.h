// SPDX-License-Identifier: Apache-2.0
// System control port A at 0x92: the fast A20 gate and a fast reset.
// Spec: IBM PS/2 Technical Reference, system control port A; Intel ICH9 data sheet, 13.7.2.
#pragma once

#include <functional>

#include "devices/device.h"

namespace vireo {

class Port92 final : public Device {
 public:
  static constexpr uint64_t kPorts = 1;
  // `a20`: whether address line 20 may pass, as far as this gate is asked.
  explicit Port92(std::function<void()> reset_line, std::function<void(bool)> a20 = [](bool) {}) : reset_line_(std::move(reset_line)), a20_(std::move(a20)) {}

  void read(Access, std::span<std::byte> data) override { data[0] = std::byte{value_}; }
  void write(Access, std::span<const std::byte> data) override {
    const uint8_t before = value_;
    value_ = std::to_integer<uint8_t>(data[0]) & 3;
    if ((before ^ value_) & kA20) a20_(value_ & kA20);
    if (!(before & 1) && (value_ & 1)) reset_line_();
  }
  void reset(ResetKind) override {
    value_ = kA20;
    a20_(true);
  }
  void fields(Archive& archive) override {
    archive.field(1, "value", value_);
    a20_(value_ & kA20);
  }

 private:
  static constexpr uint8_t kA20 = 2;
  std::function<void()> reset_line_;
  std::function<void(bool)> a20_;
  uint8_t value_ = kA20;
};

}  // namespace vireo
