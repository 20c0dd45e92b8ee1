// SPDX-License-Identifier: Apache-2.0
// The firmware configuration port pair (0x510 selector, 0x511 data): numbered items of bytes the machine tells the guest.
// Spec: the fw_cfg device interface as documented with the QEMU project (docs/specs/fw_cfg).
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "devices/device.h"

namespace vireo {

class FwCfg final : public Device {
 public:
  static constexpr uint64_t kPorts = 2;
  static constexpr uint16_t kSignature = 0, kId = 1, kRamSize = 3, kCpuCount = 5, kMaxCpus = 0x0f;

  FwCfg() {
    items_[kSignature] = {std::byte{'Q'}, std::byte{'E'}, std::byte{'M'}, std::byte{'U'}};
    set<uint32_t>(kId, 1);  // the traditional interface, no DMA
  }

  template <class T>
  void set(uint16_t key, T value) {
    auto bytes = std::as_bytes(std::span(&value, 1));
    items_[key].assign(bytes.begin(), bytes.end());
  }

  void read(Access access, std::span<std::byte> data) override {
    if (access.offset != 1) return;
    auto item = items_.find(selected_);
    for (std::byte& out : data) out = item != items_.end() && at_ < item->second.size() ? item->second[at_++] : std::byte{0};
  }
  void write(Access access, std::span<const std::byte> data) override {
    if (access.offset != 0 || data.size() != 2) return;
    memcpy(&selected_, data.data(), 2);
    at_ = 0;
  }
  void reset(ResetKind) override { selected_ = 0, at_ = 0; }
  void fields(Archive& archive) override {
    archive.field(1, "selected", selected_);
    archive.field(2, "at", at_);
  }

 private:
  std::map<uint16_t, std::vector<std::byte>> items_;
  uint16_t selected_ = 0;
  uint32_t at_ = 0;
};

}  // namespace vireo
