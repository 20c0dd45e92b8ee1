// SPDX-License-Identifier: Apache-2.0
// A virtio device without its transport: type, features, queue sizes, config space, activate, deactivate.
// Spec: virtio 1.3, chapters 2 and 5.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/archive.h"

namespace vireo {
class GuestMemory;
}

namespace vireo::virtio {

constexpr uint64_t bit(unsigned feature) { return 1ull << feature; }  // 2.2

class Queue;  // virtio/queue.h: split and packed virtqueues

// How a device tells the driver: the transport turns these into an MSI-X message or the interrupt pin. Thread-safe.
class Interrupt {
 public:
  virtual ~Interrupt() = default;
  virtual void queue(unsigned index) = 0;
  virtual void config() = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual uint16_t type() const = 0;            // virtio device id
  virtual uint64_t features() const = 0;        // device's own; the transport adds the ring's
  // Which of the ring's features it can do with; what works on the rings may be somebody else.
  virtual uint64_t ring_features() const { return ~0ull; }
  virtual std::vector<uint16_t> queue_sizes() const = 0;  // the maximum of each queue
  // Bytes past the device's config space are left as they are. Must be consistent in itself against the device's own thread;
  // the transport finds out about changes between two reads.
  virtual void read_config(uint64_t offset, std::span<std::byte> data) = 0;
  virtual void write_config(uint64_t offset, std::span<const std::byte> data) {}

  // FEATURES_OK: what the driver has accepted, before it looks at the config space again.
  virtual void features_accepted(uint64_t features) {}
  // DRIVER_OK: the queues are set up (null for one the driver left disabled). They stay the transport's and live until deactivate().
  virtual void activate(uint64_t accepted_features, std::span<Queue* const> queues, Interrupt& interrupt) = 0;
  // The driver rang queue `index`. Comes on the thread that took the notification; must not block on I/O.
  virtual void notify(unsigned index) = 0;
  // Stops using queues and guest memory and returns only when no request is in flight. The device's state stays: a
  // transport also quiets a device this way to save it, and activates it again.
  virtual void deactivate() = 0;
  // The driver reset the device, after deactivate(): back to what create() made.
  virtual void reset() {}
  // What activate() does not give back, numbers 1 to 99. While not active.
  virtual void fields(Archive& archive) = 0;
};

}  // namespace vireo::virtio
