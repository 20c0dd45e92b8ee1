// SPDX-License-Identifier: Apache-2.0
// virtio over MMIO, version 2: a 512-byte region of registers with the config space behind them, and one interrupt line.
// Spec: virtio 1.3, 4.2. There are no shared memory regions.
#pragma once

#include <memory>
#include <mutex>

#include "base/result.h"
#include "devices/device.h"
#include "devices/doorbell.h"
#include "virtio/transport.h"

namespace vireo::virtio {

class Mmio final : public vireo::Device, public Transport {
 public:
  static constexpr uint64_t kRegionSize = 0x200;

  struct Pins {
    GuestMemory& memory;
    IrqLine& irq;  // level-triggered
  };

  static std::unique_ptr<Mmio> create(std::unique_ptr<virtio::Device> device, Pins pins);
  ~Mmio() override;

  void read(Access access, std::span<std::byte> data) override;
  void write(Access access, std::span<const std::byte> data) override;
  void reset(ResetKind kind) override;
  void fields(Archive& archive) override;

  // One per queue, for the hypervisor to catch QueueNotify without an exit.
  std::vector<Doorbell> doorbells();

  // From the device, on any thread.
  void queue(unsigned index) override;
  void config() override;

 private:
  Mmio(std::unique_ptr<virtio::Device> device, Pins pins);

  uint32_t read_register(uint64_t offset);
  void write_register(uint64_t offset, uint32_t value);
  void raise(uint32_t cause);
  void registers_reset() override;
  void register_fields(Archive& archive) override;

  Pins pins_;
  uint32_t device_features_select_ = 0;
  uint32_t driver_features_select_ = 0;
  uint32_t queue_select_ = 0;
  std::mutex interrupt_mutex_;  // the cause bits and the line move together
  uint32_t interrupt_status_ = 0;
};

}  // namespace vireo::virtio
