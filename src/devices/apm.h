// SPDX-License-Identifier: Apache-2.0
// The two ports at 0xb2 by which software asks for a system management interrupt: the command, whose writing is the request, and a byte beside it
// that says more to whoever handles it. Spec: Intel ICH9 data sheet, APM_CNT and APM_STS.
#pragma once

#include <functional>

#include "devices/device.h"

namespace vireo {

class Apm final : public Device {
 public:
  static constexpr uint64_t kPorts = 2;
  static constexpr uint64_t kCommand = 0, kStatus = 1;
  // `command`: on the writer's thread, when the byte is there to be read.
  explicit Apm(std::function<void()> command) : command_(std::move(command)) {}

  void read(Access access, std::span<std::byte> data) override {
    for (size_t i = 0; i < data.size() && access.offset + i < kPorts; i++) data[i] = std::byte{values_[access.offset + i]};
  }
  void write(Access access, std::span<const std::byte> data) override {
    for (size_t i = 0; i < data.size() && access.offset + i < kPorts; i++) values_[access.offset + i] = std::to_integer<uint8_t>(data[i]);
    if (access.offset == kCommand) command_();
  }
  void reset(ResetKind) override { values_[0] = values_[1] = 0; }
  void fields(Archive& archive) override {
    archive.field(1, "command", values_[kCommand]);
    archive.field(2, "status", values_[kStatus]);
  }

 private:
  std::function<void()> command_;
  uint8_t values_[kPorts] = {};
};

}  // namespace vireo
