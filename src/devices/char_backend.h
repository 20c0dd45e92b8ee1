// SPDX-License-Identifier: Apache-2.0
// The host's end of a byte stream a guest device speaks: a terminal, a file, a socket. Both sides can push back.
#pragma once

#include <cstddef>
#include <span>

namespace vireo {

// The device's side. Any thread.
class CharFrontend {
 public:
  virtual ~CharFrontend() = default;
  virtual size_t receive_room() const = 0;
  virtual size_t receive(std::span<const std::byte> bytes) = 0;  // how many it took
  virtual void transmit_ready() = 0;                             // a refused write() may be tried again
};

class CharBackend {
 public:
  virtual ~CharBackend() = default;
  virtual void connect(CharFrontend* frontend) = 0;  // null: the device is gone
  virtual bool write(std::byte byte) = 0;            // any thread, does not block; false: full, transmit_ready() will follow
  virtual void room_made() = 0;                      // any thread: the frontend takes bytes again
};

}  // namespace vireo
