// SPDX-License-Identifier: Apache-2.0
// What kvm-unit-tests expect of a test machine: a 32-bit latch, interrupt lines to pull, a page to drop from the host's page tables, and
// I/O memory that reads back what was written; each is a Device for its own region.
#pragma once

#include <array>
#include <cstring>
#include <functional>
#include <vector>

#include "devices/device.h"

namespace vireo {

// Ports 0xe0 and 0xe8: one latch under two addresses, of which offset is taken modulo four.
class TestLatch final : public Device {
 public:
  void read(Access access, std::span<std::byte> data) override {
    for (size_t i = 0; i < data.size(); i++) data[i] = bytes_[(access.offset + i) % 4];
  }
  void write(Access access, std::span<const std::byte> data) override {
    for (size_t i = 0; i < data.size(); i++) bytes_[(access.offset + i) % 4] = data[i];
  }
  void reset(ResetKind) override { bytes_ = {}; }
  void fields(Archive& archive) override { archive.field(1, "latch", bytes_); }

 private:
  std::array<std::byte, 4> bytes_{};
};

// Ports 0x2000 + n: the level of interrupt line n.
class TestIrqLines final : public Device {
 public:
  explicit TestIrqLines(std::vector<IrqLine*> lines) : lines_(std::move(lines)) {}
  void read(Access, std::span<std::byte>) override {}
  void write(Access access, std::span<const std::byte> data) override {
    if (access.offset < lines_.size()) lines_[access.offset]->set(data[0] != std::byte{0});
  }
  void reset(ResetKind) override {
    for (IrqLine* line : lines_) line->set(false);
  }
  void fields(Archive&) override {}

 private:
  std::vector<IrqLine*> lines_;
};

// Port 0xe4: the guest address whose host page shall be unmapped and mapped again.
class TestFlush final : public Device {
 public:
  explicit TestFlush(std::function<void(uint64_t)> flush) : flush_(std::move(flush)) {}
  void read(Access, std::span<std::byte>) override {}
  void write(Access, std::span<const std::byte> data) override {
    uint32_t page = 0;
    memcpy(&page, data.data(), std::min(data.size(), sizeof page));
    flush_(page);
  }
  void reset(ResetKind) override {}
  void fields(Archive&) override {}

 private:
  std::function<void(uint64_t)> flush_;
};

// 64 KiB at 0xff000000.
class TestMemory final : public Device {
 public:
  static constexpr uint64_t kSize = 0x10000;
  void read(Access access, std::span<std::byte> data) override {
    if (access.offset + data.size() <= kSize) memcpy(data.data(), &bytes_[access.offset], data.size());
  }
  void write(Access access, std::span<const std::byte> data) override {
    if (access.offset + data.size() <= kSize) memcpy(&bytes_[access.offset], data.data(), data.size());
  }
  void reset(ResetKind) override { std::fill(bytes_.begin(), bytes_.end(), std::byte{0}); }
  void fields(Archive& archive) override { archive.bytes(1, "bytes", bytes_); }

 private:
  std::vector<std::byte> bytes_ = std::vector<std::byte>(kSize);
};

}  // namespace vireo
