// SPDX-License-Identifier: Apache-2.0
// The far end of a guest's network card: Ethernet frames out and in, on one event loop.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace vireo::network {

// Work on frames that a backend can leave to others: what the guest may skip on frames it sends, and the backend on those it
// gives. Bits are those of TUNSETOFFLOAD, whose meaning they have.
struct Offloads {
  bool checksum = false;
  bool tso4 = false, tso6 = false, ecn = false, ufo = false;
  bool operator==(const Offloads&) const = default;
};

// Everything is for the loop's thread.
class Backend {
 public:
  // Takes one whole frame. False: no room now, the backend keeps the frame and waits for resume().
  using Receiver = std::function<bool(std::span<const std::byte> frame)>;
  // The size of struct virtio_net_hdr_v1, little-endian, that starts each frame where vnet_header() says so.
  static constexpr size_t kVnetHeaderSize = 12;

  virtual ~Backend() = default;

  // Whether frames carry a virtio-net header in front, in both directions; only then can there be offloads.
  virtual bool vnet_header() const { return false; }
  virtual Offloads supported_offloads() const { return {}; }
  // What the guest accepts in frames it receives.
  virtual void set_offloads(const Offloads& accepted) {}

  // Sends one frame (with its header where frames have one). A frame that cannot be sent now is lost, as on a wire.
  virtual void send(std::span<const iovec> frame) = 0;

  // Frames go to `receiver` from now on; with none they are not read, or lost.
  virtual void set_receiver(Receiver receiver) = 0;
  // There is room again after `receiver` refused a frame.
  virtual void resume() = 0;
};

// Nobody at the other end: what is sent is lost and nothing comes.
class None final : public Backend {
 public:
  void send(std::span<const iovec>) override {}
  void set_receiver(Receiver) override {}
  void resume() override {}
};

}  // namespace vireo::network
