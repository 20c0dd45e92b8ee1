// SPDX-License-Identifier: Apache-2.0
// Bochs's display interface: eleven 16-bit registers that set a linear frame of any size and depth beyond the VGA's modes.
// Spec: "VBE DISPI interface" of the Bochs project (vbe_display_api.txt), version 0xb0c5 (with LFB, 8-bit DAC, 64K banks).
#pragma once

#include <array>
#include <cstdint>

#include "base/archive.h"

namespace vireo {

class VbeDispi {
 public:
  enum Register : uint16_t { kId, kXres, kYres, kBpp, kEnable, kBank, kVirtWidth, kVirtHeight, kXOffset, kYOffset, kVideoMemory64K, kRegisters };
  static constexpr uint16_t kVersion0 = 0xb0c0, kVersion5 = 0xb0c5;
  static constexpr uint16_t kEnabled = 0x01, kGetCaps = 0x02, k8BitDac = 0x20, kLinear = 0x40, kNoClear = 0x80;
  static constexpr uint16_t kMostWidth = 2560, kMostHeight = 1600, kMostBits = 32;

  explicit VbeDispi(uint32_t memory) : memory_(memory) {}

  uint16_t read(unsigned index) const;
  // True: the frame has to be cleared.
  bool write(unsigned index, uint16_t value);
  void reset();
  void fields(Archive& archive);  // number 40

  bool enabled() const { return registers_[kEnable] & kEnabled; }
  bool eight_bit_dac() const { return registers_[kEnable] & k8BitDac; }
  unsigned width() const { return registers_[kXres]; }
  unsigned height() const { return registers_[kYres]; }
  unsigned bits() const { return registers_[kBpp]; }  // 4, 8, 15, 16, 24, 32
  unsigned bank() const { return registers_[kBank]; }
  uint32_t line_bytes() const;  // of one plane where there are planes
  uint32_t start() const;       // bytes from the frame's start

 private:
  void fit();
  uint32_t room() const { return registers_[kBpp] == 4 ? memory_ / 4 : memory_; }

  uint32_t memory_;  // bytes
  std::array<uint16_t, kRegisters> registers_{kVersion5, 0, 0, 8};
};

}  // namespace vireo
