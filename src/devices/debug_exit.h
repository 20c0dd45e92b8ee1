// SPDX-License-Identifier: Apache-2.0
// A port whose write ends the machine: the process's exit status is (value << 1) | 1, the convention test kernels know.
#pragma once

#include <cstring>
#include <functional>

#include "devices/device.h"

namespace vireo {

class DebugExit final : public Device {
 public:
  static constexpr uint64_t kPorts = 4;
  explicit DebugExit(std::function<void(int)> exit) : exit_(std::move(exit)) {}

  void read(Access, std::span<std::byte> data) override { memset(data.data(), 0, data.size()); }
  void write(Access, std::span<const std::byte> data) override {
    uint32_t value = 0;
    memcpy(&value, data.data(), std::min(data.size(), sizeof value));
    exit_(static_cast<int>(value << 1 | 1) & 0xff);
  }
  void reset(ResetKind) override {}
  void fields(Archive&) override {}

 private:
  std::function<void(int)> exit_;
};

}  // namespace vireo
