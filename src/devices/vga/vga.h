// SPDX-License-Identifier: Apache-2.0
// A VGA on PCI with a linear frame: 1234:1111, the "standard VGA" of QEMU and Bochs, which PC firmware, UEFI and Linux have drivers for. Text and
// graphics modes by its registers, others by Bochs's display interface. BAR 0 is the frame, BAR 2 the registers in memory, the ROM its BIOS.
// Spec: IBM VGA technical reference; "Standard VGA" in the QEMU project's documentation (docs/specs/standard-vga).
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/event_loop.h"
#include "devices/pci_device.h"
#include "devices/vga/vbe_dispi.h"
#include "devices/vga/vga_memory.h"
#include "devices/vga/vga_registers.h"
#include "devices/vga/vga_screen.h"

namespace vireo {

class Vga final : public PciDevice {
 public:
  static constexpr uint64_t kFrameSize = 16 << 20;
  static constexpr uint64_t kPorts = VgaRegisters::kLastPort - VgaRegisters::kFirstPort + 1;
  // 16 bits each: the index at 0x1ce, the data at 0x1cf and at 0x1d0.
  static constexpr uint64_t kVbePort = 0x1ce, kVbePorts = 4;
  static constexpr uint64_t kWindow = 0xa0000, kWindowSize = 0x20000;
  struct Config {
    std::span<std::byte> frame;  // kFrameSize bytes, which outlive the device
    std::vector<std::byte> rom;  // empty: none
  };

  Vga(Config config, Clock& clock);

  // What it decodes without a BAR: ports 0x3b0 to 0x3df and 0x1ce to 0x1d1, and memory from 0xa0000.
  Device& ports() { return ports_; }
  Device& vbe_ports() { return vbe_ports_; }
  Device& window() { return window_; }

  // Any thread.
  std::optional<TextScreen> text() const;
  PixelScreen pixels() const;

 protected:
  void read_bar(unsigned bar, Access access, std::span<std::byte> data) override;
  void write_bar(unsigned bar, Access access, std::span<const std::byte> data) override;
  void device_reset(ResetKind kind) override;
  void device_fields(Archive& archive) override;

 private:
  // A part of the card on a bus. Its state is the card's.
  class Part final : public Device {
   public:
    using Read = void (Vga::*)(uint64_t, std::span<std::byte>);
    using Write = void (Vga::*)(uint64_t, std::span<const std::byte>);
    Part(Vga& card, Read read, Write write) : card_(card), read_(read), write_(write) {}
    void read(Access access, std::span<std::byte> data) override {
      std::lock_guard lock(card_.mutex_);
      (card_.*read_)(access.offset, data);
    }
    void write(Access access, std::span<const std::byte> data) override {
      std::lock_guard lock(card_.mutex_);
      (card_.*write_)(access.offset, data);
    }
    void reset(ResetKind) override {}
    void fields(Archive&) override {}

   private:
    Vga& card_;
    Read read_;
    Write write_;
  };
  void read_ports(uint64_t offset, std::span<std::byte> data);
  void write_ports(uint64_t offset, std::span<const std::byte> data);
  void read_vbe_ports(uint64_t offset, std::span<std::byte> data);
  void write_vbe_ports(uint64_t offset, std::span<const std::byte> data);
  void read_window(uint64_t offset, std::span<std::byte> data);
  void write_window(uint64_t offset, std::span<const std::byte> data);
  void write_vbe(unsigned index, uint16_t value);
  VgaRegisters::Beam beam() const;

  Config config_;
  Clock& clock_;
  mutable std::mutex mutex_;
  VgaRegisters registers_;
  VbeDispi vbe_{static_cast<uint32_t>(kFrameSize)};
  VgaMemory memory_{config_.frame, registers_, vbe_};
  uint16_t vbe_index_ = 0;
  Part ports_, vbe_ports_, window_;
};

}  // namespace vireo
