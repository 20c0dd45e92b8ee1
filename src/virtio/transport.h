// SPDX-License-Identifier: Apache-2.0
// What every virtio transport does behind its registers: status handshake, feature selection, queue set-up, activation,
// reset, saved state. A transport derives from it and maps registers to these calls.
// Spec: virtio 1.3, 2.1 to 2.6 and 3.1. The caller holds the device's lock but where it says thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/archive.h"
#include "virtio/device.h"
#include "virtio/queue.h"

namespace vireo::virtio {

class Transport : public Interrupt {
 public:
  static constexpr size_t kMaxConfig = 1024;  // of config space; more than any device type defines
  static constexpr uint16_t kNoVector = 0xffff;

  ~Transport() override;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  Device& device() { return *device_; }
  unsigned queue_count() const { return static_cast<unsigned>(setups_.size()); }
  // The driver rang the queue's bell. Thread-safe, needs no lock, does not block.
  void notify(unsigned index) {
    if (index < setups_.size()) device_->notify(index);
  }

  // Quiets the device, and lets it go on; whoever saves guest memory with the device's state keeps it paused throughout.
  void pause();
  void resume();

 protected:
  struct QueueSetup {
    uint16_t max = 0;
    uint16_t size = 0;
    bool ready = false;
    uint16_t vector = kNoVector;  // by std::atomic_ref where the device may be active: it is read on the device's thread
    uint64_t descriptors = 0, driver = 0, device = 0;
  };

  Transport(std::unique_ptr<Device> device, GuestMemory& memory);

  uint8_t status() const { return status_; }
  void write_status(uint8_t value);

  uint64_t offered_features() const;
  // One 32-bit word of the features; select 0 has bits 0 to 31.
  uint32_t device_feature_word(uint32_t select) const;
  uint32_t driver_feature_word(uint32_t select) const;
  void write_driver_feature_word(uint32_t select, uint32_t value);

  // A queue's set-up, or null when there is no such queue. The driver may change it only before DRIVER_OK.
  QueueSetup* setup(unsigned index) { return index < setups_.size() ? &setups_[index] : nullptr; }
  QueueSetup* writable_setup(unsigned index);
  // The driver takes a queue back, at any time: the device touches its rings no more.
  void disable_queue(unsigned index);
  // As if DRIVER_OK had not been set: memory is out of the device's reach. A driver has to reset it before it goes on.
  void stop();

  void read_config(uint64_t offset, std::span<std::byte> data);
  void write_config(uint64_t offset, std::span<const std::byte> data);
  uint32_t config_generation();

  void reset_transport();                        // as when the driver writes 0 to the status
  void transport_fields(Archive& archive);       // numbers 1 to 99 for the device, 300 upwards for the transport
  virtual void registers_reset() = 0;            // the derived class's own registers
  virtual void register_fields(Archive& archive) = 0;  // numbers 320 to 359

 private:
  void sample_config();
  void activate();
  void deactivate();
  bool driver_ok() const;
  void needs_reset();

  std::unique_ptr<Device> device_;
  GuestMemory& memory_;
  std::vector<QueueSetup> setups_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::vector<Queue::State> states_;  // of queues while the device is not active
  std::atomic<uint8_t> status_ = 0;   // a queue may break on the device's thread
  uint64_t driver_features_ = 0;
  bool active_ = false;
  bool paused_ = false;
  std::array<std::byte, kMaxConfig> config_{};  // as last seen by the driver
  uint32_t generation_ = 0;
};

}  // namespace vireo::virtio
