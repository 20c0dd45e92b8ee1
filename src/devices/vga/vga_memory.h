// SPDX-License-Identifier: Apache-2.0
// The VGA's memory as the CPU sees it from 0xa0000 to 0xbffff: four planes, or pairs of them, or a line of bytes. Byte `a` of plane p is byte 4a+p of
// the frame; where the planes are chained the frame is the line. Spec: IBM VGA technical reference, graphics controller, write modes 0 to 3, read modes 0 and 1.
#pragma once

#include <cstdint>
#include <span>

#include "base/archive.h"
#include "devices/vga/vbe_dispi.h"
#include "devices/vga/vga_registers.h"

namespace vireo {

class VgaMemory {
 public:
  VgaMemory(std::span<std::byte> frame, const VgaRegisters& registers, const VbeDispi& vbe) : frame_(frame), registers_(registers), vbe_(vbe) {}

  // Offsets from 0xa0000. Nothing is read or written where the VGA does not decode.
  bool read(uint32_t offset, std::byte& value);
  void write(uint32_t offset, uint8_t value);
  void reset() { latch_ = 0; }
  void fields(Archive& archive) { archive.field(50, "latch", latch_); }

 private:
  // An address inside of the window that the graphics controller maps; false: not there.
  bool decode(uint32_t& offset) const;
  uint8_t byte(uint32_t at) const { return at < frame_.size() ? std::to_integer<uint8_t>(frame_[at]) : 0xff; }
  uint32_t planes(uint32_t address) const;
  void put_planes(uint32_t address, uint32_t value, unsigned plane_mask);

  std::span<std::byte> frame_;
  const VgaRegisters& registers_;
  const VbeDispi& vbe_;
  uint32_t latch_ = 0;  // a byte of each plane
};

}  // namespace vireo
