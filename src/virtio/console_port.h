// SPDX-License-Identifier: Apache-2.0
// The host's end of a console port: a terminal, a socket, a file. Everything is for the console's event loop.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

namespace vireo::virtio {

class ConsolePort {
 public:
  virtual ~ConsolePort() = default;
  // Takes what the guest wrote; returns how much. Less than all: `writable` is called when there is room again.
  virtual size_t write(std::span<const std::byte> data) = 0;
  // Gives input for the guest; returns how much, 0 for none now.
  virtual size_t read(std::span<std::byte> data) = 0;
  // `readable`: read() has something again after it gave less than was asked for. Empty functions unhook.
  virtual void set_callbacks(std::function<void()> readable, std::function<void()> writable) = 0;
  // A guest program opened or closed its end (multiport only).
  virtual void guest_open(bool open) {}
};

}  // namespace vireo::virtio
