// SPDX-License-Identifier: Apache-2.0
// PCI bus 0: finds functions for configuration accesses through ports 0xcf8/0xcfc or ECAM, and keeps their BARs mapped where the guest
// puts them. Spec: PCI Local Bus 3.0, 3.2.2.3.2; PCI Express Base 5.0, 7.2.2.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>

#include "base/log.h"
#include "devices/device.h"
#include "devices/pci_device.h"
#include "machine/bus.h"
#include "machine/doorbells.h"

namespace vireo {

class PciRoot final : public PciParent {
 public:
  static constexpr unsigned kSlots = 32, kFunctions = 8;

  // A memory slot of the hypervisor for what a BAR has of memory; size 0 deletes it. The number is the slot's, from add().
  struct MemorySlots {
    std::function<unsigned()> add;
    std::function<Result<>(unsigned slot, uint64_t start, uint64_t size, std::byte* host)> set;
  };
  // `reset_control` answers at port 0xcf9, inside the address register.
  PciRoot(Bus& ports, Bus& mmio, Doorbells& doorbells, Device& reset_control, MemorySlots slots);
  ~PciRoot() override;

  Result<> map();
  // Where the configuration space is seen in memory; size 0: nowhere. Of a smaller window only the first buses.
  void map_ecam(uint64_t address, uint64_t size);
  Result<> add(unsigned slot, unsigned function, std::unique_ptr<PciDevice> device);
  bool occupied(unsigned slot) const;
  void reset(ResetKind kind);
  void decoding_changed(PciDevice& device) override;

  // Gives every BAR a place and switches decoding on, as firmware does before it starts a kernel.
  struct Windows {
    uint64_t io, io_end, memory, memory_end, high, high_end;
  };
  void assign(Windows windows, const std::function<uint8_t(unsigned slot)>& interrupt_line);
  // The lowest and the highest address above 4 GiB that a BAR decodes; the end is 0 where there is none.
  struct Range {
    uint64_t start = ~0ull, end = 0;
  };
  Range high_bars();

 private:
  // One BAR as the buses see it.
  class Window final : public Device {
   public:
    void read(Access access, std::span<std::byte> data) override {
      std::lock_guard lock(*mutex);
      device->read(bar, access, data);
    }
    void write(Access access, std::span<const std::byte> data) override {
      std::lock_guard lock(*mutex);
      device->write(bar, access, data);
    }
    void reset(ResetKind) override {}
    void fields(Archive&) override {}

    PciDevice* device = nullptr;
    std::recursive_mutex* mutex = nullptr;
    unsigned bar = 0, slot = 0;
    uint64_t decodes = PciDevice::kNotDecoded, mapped_at = PciDevice::kNotDecoded;  // map_mutex_'s; they differ while something else is there
    bool io = false;
  };
  struct Function {
    std::unique_ptr<PciDevice> device;
    // Recursive: a write through a function's own configuration window comes back to it.
    std::recursive_mutex mutex;
    std::array<Window, PciDevice::kWindows> windows;
    RateLimit complaints;  // of what the guest may do as often as it likes
  };
  class ConfigPorts;
  class Ecam;

  Function* find(unsigned bus, unsigned slot, unsigned function);
  void config_read(unsigned bus, unsigned devfn, unsigned offset, std::span<std::byte> data);
  void config_write(unsigned bus, unsigned devfn, unsigned offset, std::span<const std::byte> data);
  void map_waiting();
  void map(Window& window, Function& function);
  void unmap(Window& window);

  Bus& ports_;
  Bus& mmio_;
  Doorbells& doorbells_;
  MemorySlots slots_;
  std::array<std::unique_ptr<Function>, kSlots * kFunctions> functions_;
  std::mutex map_mutex_;  // taken with a function's held
  std::unique_ptr<Device> config_ports_, ecam_;
  uint64_t ecam_at_ = 0, ecam_size_ = 0;
};

}  // namespace vireo
