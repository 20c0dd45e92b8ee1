// SPDX-License-Identifier: Apache-2.0
#include "devices/vga/vga_memory.h"

#include <array>
#include <bit>
#include <cstring>

namespace vireo {
namespace {

// A bit for each plane to a byte for each.
constexpr uint32_t spread(unsigned bits) { return (bits & 1 ? 0xffu : 0) | (bits & 2 ? 0xff00u : 0) | (bits & 4 ? 0xff0000u : 0) | (bits & 8 ? 0xff000000u : 0); }
constexpr uint32_t in_all(uint8_t value) { return value * 0x01010101u; }

}  // namespace

bool VgaMemory::decode(uint32_t& offset) const {
  if (!registers_.memory_enabled() && !vbe_.enabled()) return false;
  struct Range {
    uint32_t start, size;
  };
  static constexpr std::array<Range, 4> kMaps{{{0, 0x20000}, {0, 0x10000}, {0x10000, 0x8000}, {0x18000, 0x8000}}};
  const Range map = kMaps[registers_.graphics(6) >> 2 & 3];
  if (vbe_.enabled() && (registers_.graphics(6) & 1)) {
    if (offset >= 0x10000) return false;
    offset += vbe_.bank() << 16;
    return true;
  }
  if (offset < map.start || offset - map.start >= map.size) return false;
  offset -= map.start;
  return true;
}

uint32_t VgaMemory::planes(uint32_t address) const {
  uint32_t value = ~0u;
  if (uint64_t{address} * 4 + 4 <= frame_.size()) memcpy(&value, &frame_[address * 4], 4);
  return value;
}

void VgaMemory::put_planes(uint32_t address, uint32_t value, unsigned plane_mask) {
  if (uint64_t{address} * 4 + 4 > frame_.size()) return;
  const uint32_t keep = ~spread(plane_mask);
  value = (planes(address) & keep) | (value & ~keep);
  memcpy(&frame_[address * 4], &value, 4);
}

bool VgaMemory::read(uint32_t offset, std::byte& value) {
  if (!decode(offset)) return false;
  if (registers_.chain4() || (vbe_.enabled() && vbe_.bits() > 4)) {
    value = std::byte{byte(offset)};
    return true;
  }
  if (registers_.graphics(5) & 0x10) {
    const unsigned plane = (registers_.graphics(4) & 2u) | (offset & 1);
    value = std::byte{byte((offset & ~1u) << 1 | plane)};
    return true;
  }
  latch_ = planes(offset);
  if (registers_.graphics(5) & 8) {
    // Read mode 1: the pixels whose colour is that of "colour compare" in the planes of "colour don't care".
    uint32_t differs = (latch_ ^ spread(registers_.graphics(2))) & spread(registers_.graphics(7));
    differs |= differs >> 16;
    differs |= differs >> 8;
    value = std::byte{static_cast<uint8_t>(~differs)};
  } else {
    value = std::byte{static_cast<uint8_t>(latch_ >> 8 * (registers_.graphics(4) & 3))};
  }
  return true;
}

void VgaMemory::write(uint32_t offset, uint8_t value) {
  if (!decode(offset)) return;
  const unsigned map_mask = registers_.sequencer(2);
  if (vbe_.enabled() && vbe_.bits() > 4) {
    if (offset < frame_.size()) frame_[offset] = std::byte{value};
    return;
  }
  if (registers_.chain4()) {
    if ((map_mask >> (offset & 3) & 1) && offset < frame_.size()) frame_[offset] = std::byte{value};
    return;
  }
  if (registers_.graphics(5) & 0x10) {
    const unsigned plane = (registers_.graphics(4) & 2u) | (offset & 1);
    const uint32_t at = (offset & ~1u) << 1 | plane;
    if ((map_mask >> plane & 1) && at < frame_.size()) frame_[at] = std::byte{value};
    return;
  }
  const unsigned rotate = registers_.graphics(3) & 7;
  uint32_t bits = in_all(registers_.graphics(8)), data;
  switch (registers_.graphics(5) & 3) {
    case 0: {
      const uint32_t set = spread(registers_.graphics(1));
      data = (in_all(std::rotr(value, static_cast<int>(rotate))) & ~set) | (spread(registers_.graphics(0)) & set);
      break;
    }
    case 1:
      return put_planes(offset, latch_, map_mask);
    case 2:
      data = spread(value);
      break;
    default:
      bits &= in_all(std::rotr(value, static_cast<int>(rotate)));
      data = spread(registers_.graphics(0));
      break;
  }
  switch (registers_.graphics(3) >> 3 & 3) {
    case 1: data &= latch_; break;
    case 2: data |= latch_; break;
    case 3: data ^= latch_; break;
    default: break;
  }
  put_planes(offset, (data & bits) | (latch_ & ~bits), map_mask);
}

}  // namespace vireo
