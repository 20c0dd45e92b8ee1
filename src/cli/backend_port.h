// SPDX-License-Identifier: Apache-2.0
// A virtio console port on the same host ends that serial ports have: turns a backend that pushes bytes into a port that is asked.
#pragma once

#include <deque>
#include <functional>

#include "devices/char_backend.h"
#include "virtio/console_port.h"

namespace vireo::cli {

// All on the event loop's thread, where CharFd calls its frontend.
class BackendPort final : public virtio::ConsolePort, public CharFrontend {
 public:
  explicit BackendPort(CharBackend& backend) : backend_(backend) { backend_.connect(this); }
  ~BackendPort() override { backend_.connect(nullptr); }

  size_t write(std::span<const std::byte> data) override {
    size_t taken = 0;
    while (taken < data.size() && backend_.write(data[taken])) taken++;
    return taken;
  }
  size_t read(std::span<std::byte> data) override {
    size_t count = std::min(data.size(), input_.size());
    std::copy_n(input_.begin(), count, data.begin());
    input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(count));
    if (count) backend_.room_made();
    return count;
  }
  void set_callbacks(std::function<void()> readable, std::function<void()> writable) override {
    readable_ = std::move(readable);
    writable_ = std::move(writable);
  }

  size_t receive_room() const override { return kLimit - input_.size(); }
  size_t receive(std::span<const std::byte> bytes) override {
    size_t taken = std::min(bytes.size(), receive_room());
    input_.insert(input_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
    if (taken && readable_) readable_();
    return taken;
  }
  void transmit_ready() override {
    if (writable_) writable_();
  }

 private:
  static constexpr size_t kLimit = 4096;
  CharBackend& backend_;
  std::deque<std::byte> input_;
  std::function<void()> readable_, writable_;
};

}  // namespace vireo::cli
