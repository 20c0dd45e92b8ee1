// SPDX-License-Identifier: Apache-2.0
// A port that takes the firmware's messages, byte by byte, and reads 0xe9 so that it is found: the convention of Bochs and QEMU.
#pragma once

#include <functional>

#include "devices/device.h"

namespace vireo {

class DebugConsole final : public Device {
 public:
  static constexpr uint64_t kPorts = 1;
  explicit DebugConsole(std::function<void(std::span<const std::byte>)> out) : out_(std::move(out)) {}

  void read(Access, std::span<std::byte> data) override { data[0] = std::byte{0xe9}; }
  void write(Access, std::span<const std::byte> data) override { out_(data); }
  void reset(ResetKind) override {}
  void fields(Archive&) override {}

 private:
  std::function<void(std::span<const std::byte>)> out_;
};

}  // namespace vireo
