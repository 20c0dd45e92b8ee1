// SPDX-License-Identifier: Apache-2.0
#include "devices/vga/vga.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"

namespace vireo {
namespace {

// BAR 2: the monitor's description (none), the ports from 0x3c0 on, Bochs's registers, 16 bits each.
constexpr uint64_t kRegisterBar = 0x1000, kPortsAt = 0x400, kPortsEnd = 0x420, kVbeAt = 0x500, kVbeEnd = kVbeAt + 2 * VbeDispi::kRegisters;
constexpr unsigned kFrameBarIndex = 0, kRegisterBarIndex = 2;
// 720x400 at 70 Hz, 31.469 kHz: 449 lines, of which 412 to 413 are the retrace; of a line a fifth.
constexpr uint64_t kFrameNs = 14'268'000, kLines = 449, kVisibleLines = 400, kRetraceLine = 412, kRetraceLines = 2;

}  // namespace

Vga::Vga(Config config, Clock& clock)
    : PciDevice({.vendor = 0x1234, .device = 0x1111, .class_code = 0x030000, .revision = 2, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .interrupt_pin = false}, {}),
      config_(std::move(config)), clock_(clock), ports_(*this, &Vga::read_ports, &Vga::write_ports), vbe_ports_(*this, &Vga::read_vbe_ports, &Vga::write_vbe_ports),
      window_(*this, &Vga::read_window, &Vga::write_window) {
  if (config_.frame.size() != kFrameSize) panic("vga: a frame of %zu bytes", config_.frame.size());
  add_bar(kFrameBarIndex, kFrameSize, BarType::kMemory32Prefetchable);
  set_bar_memory(kFrameBarIndex, config_.frame);
  add_bar(kRegisterBarIndex, kRegisterBar, BarType::kMemory32);
  if (!config_.rom.empty()) add_rom(std::move(config_.rom));
}

VgaRegisters::Beam Vga::beam() const {
  const uint64_t at = clock_.now_ns() % kFrameNs, line = at * kLines / kFrameNs, in_line = at * kLines % kFrameNs;
  return {.retrace = line >= kRetraceLine && line < kRetraceLine + kRetraceLines, .blank = line >= kVisibleLines || in_line > kFrameNs / 5 * 4};
}

void Vga::read_ports(uint64_t offset, std::span<std::byte> data) {
  for (size_t i = 0; i < data.size(); i++) data[i] = std::byte{registers_.read(static_cast<unsigned>(VgaRegisters::kFirstPort + offset + i), beam())};
}

void Vga::write_ports(uint64_t offset, std::span<const std::byte> data) {
  for (size_t i = 0; i < data.size(); i++) registers_.write(static_cast<unsigned>(VgaRegisters::kFirstPort + offset + i), std::to_integer<uint8_t>(data[i]));
}

void Vga::write_vbe(unsigned index, uint16_t value) {
  if (vbe_.write(index, value)) std::ranges::fill(config_.frame, std::byte{0});
}

void Vga::read_vbe_ports(uint64_t offset, std::span<std::byte> data) {
  if (data.size() != 2) return;
  const uint16_t value = offset ? vbe_.read(vbe_index_) : vbe_index_;
  memcpy(data.data(), &value, 2);
}

void Vga::write_vbe_ports(uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 2) return;
  uint16_t value;
  memcpy(&value, data.data(), 2);
  if (offset)
    write_vbe(vbe_index_, value);
  else
    vbe_index_ = value;
}

void Vga::read_window(uint64_t offset, std::span<std::byte> data) {
  for (size_t i = 0; i < data.size(); i++) memory_.read(static_cast<uint32_t>(offset + i), data[i]);
}

void Vga::write_window(uint64_t offset, std::span<const std::byte> data) {
  for (size_t i = 0; i < data.size(); i++) memory_.write(static_cast<uint32_t>(offset + i), std::to_integer<uint8_t>(data[i]));
}

void Vga::read_bar(unsigned bar, Access access, std::span<std::byte> data) {
  std::lock_guard lock(mutex_);
  if (bar == kFrameBarIndex) {
    std::copy_n(config_.frame.begin() + static_cast<ptrdiff_t>(access.offset), data.size(), data.begin());
  } else if (bar == kRegisterBarIndex) {
    if (access.offset < kPortsAt) {
      std::ranges::fill(data, std::byte{0});
    } else if (access.offset < kPortsEnd && data.size() <= kPortsEnd - access.offset) {
      read_ports(access.offset - kPortsAt + (0x3c0 - VgaRegisters::kFirstPort), data);
    } else if (access.offset >= kVbeAt && access.offset < kVbeEnd && data.size() == 2) {
      const uint16_t value = vbe_.read(static_cast<unsigned>(access.offset - kVbeAt) / 2);
      memcpy(data.data(), &value, 2);
    }
  }
}

void Vga::write_bar(unsigned bar, Access access, std::span<const std::byte> data) {
  std::lock_guard lock(mutex_);
  if (bar == kFrameBarIndex) {
    std::ranges::copy(data, config_.frame.begin() + static_cast<ptrdiff_t>(access.offset));
  } else if (bar == kRegisterBarIndex) {
    if (access.offset >= kPortsAt && access.offset < kPortsEnd && data.size() <= kPortsEnd - access.offset) {
      write_ports(access.offset - kPortsAt + (0x3c0 - VgaRegisters::kFirstPort), data);
    } else if (access.offset >= kVbeAt && access.offset < kVbeEnd && data.size() == 2) {
      uint16_t value;
      memcpy(&value, data.data(), 2);
      write_vbe(static_cast<unsigned>(access.offset - kVbeAt) / 2, value);
    }
  }
}

std::optional<TextScreen> Vga::text() const {
  std::lock_guard lock(mutex_);
  return VgaScreen(registers_, vbe_, config_.frame).text();
}

PixelScreen Vga::pixels() const {
  std::lock_guard lock(mutex_);
  return VgaScreen(registers_, vbe_, config_.frame).pixels();
}

void Vga::device_reset(ResetKind) {
  std::lock_guard lock(mutex_);
  registers_.reset();
  vbe_.reset();
  memory_.reset();
  vbe_index_ = 0;
}

void Vga::device_fields(Archive& archive) {
  std::lock_guard lock(mutex_);
  registers_.fields(archive);
  vbe_.fields(archive);
  memory_.fields(archive);
  archive.field(60, "vbe_index", vbe_index_);
}

}  // namespace vireo
