// SPDX-License-Identifier: Apache-2.0
// virtio over PCI, modern only: configuration structures in one BAR, named by vendor capabilities, with MSI-X or INTA#.
// Spec: virtio 1.3, 4.1.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "devices/pci_device.h"
#include "virtio/transport.h"

namespace vireo::virtio {

class Pci final : public PciDevice, public Transport {
 public:
  struct Pins {
    GuestMemory& memory;
    PciDevice::Pins pci;
    std::vector<std::byte> rom = {};  // for the machine's firmware; empty: none
  };
  // Where things are in the BAR.
  static constexpr unsigned kBar = 0;
  static constexpr uint64_t kBarSize = 0x8000;
  static constexpr uint32_t kCommon = 0x0000, kIsr = 0x1000, kDeviceConfig = 0x2000, kNotify = 0x3000, kMsixTable = 0x4000,
                            kMsixPending = 0x5000;
  static constexpr uint32_t kNotifyStride = 4;

  static std::unique_ptr<Pci> create(std::unique_ptr<virtio::Device> device, Pins pins);
  ~Pci() override;

  // Of the two bases' functions of these names, the public ones.
  using PciDevice::read_config;
  using PciDevice::write_config;

  // From the device, on any thread.
  void queue(unsigned index) override;
  void config() override;

 private:
  Pci(std::unique_ptr<virtio::Device> device, Pins pins);
  void add_structure(uint8_t type, uint32_t offset, uint32_t length);

  void read_bar(unsigned bar, Access access, std::span<std::byte> data) override;
  void write_bar(unsigned bar, Access access, std::span<const std::byte> data) override;
  void device_reset(ResetKind kind) override;
  void device_fields(Archive& archive) override;
  void before_config_read(uint16_t offset, size_t size) override;
  void after_config_write(uint16_t offset, size_t size) override;
  void registers_reset() override;
  void register_fields(Archive& archive) override;

  void read_common(uint64_t offset, std::span<std::byte> data);
  void write_common(uint64_t offset, uint64_t value, size_t size);
  void write_address(uint64_t& address, unsigned offset, uint64_t value, size_t size);
  uint16_t valid_vector(uint64_t value) const;
  void send(uint16_t vector);
  void set_isr(uint8_t bit);
  void update_pin();

  // The window of VIRTIO_PCI_CAP_PCI_CFG, when it names an access that there is.
  struct Window {
    uint8_t bar;
    uint32_t offset, length;
  };
  std::optional<Window> window() const;
  bool touches_window_data(uint16_t offset, size_t size) const;

  unsigned vectors_ = 0;
  unsigned window_capability_ = 0;
  uint32_t device_features_select_ = 0;
  uint32_t driver_features_select_ = 0;
  uint16_t queue_select_ = 0;
  std::atomic<uint16_t> config_vector_ = kNoVector;
  std::mutex isr_mutex_;  // the bits and the pin move together
  uint8_t isr_ = 0;
};

}  // namespace vireo::virtio
