// SPDX-License-Identifier: Apache-2.0
#include "devices/vga/vbe_dispi.h"

#include <algorithm>

namespace vireo {

void VbeDispi::reset() { registers_ = {kVersion5, 0, 0, 8}; }

uint16_t VbeDispi::read(unsigned index) const {
  if (index == kVideoMemory64K) return static_cast<uint16_t>(memory_ >> 16);
  if (index >= kRegisters) return 0;
  if (registers_[kEnable] & kGetCaps) {
    if (index == kXres) return kMostWidth;
    if (index == kYres) return kMostHeight;
    if (index == kBpp) return kMostBits;
  }
  return registers_[index];
}

bool VbeDispi::write(unsigned index, uint16_t value) {
  switch (index) {
    case kId:
      if (value >= kVersion0 && value <= kVersion5) registers_[kId] = value;
      return false;
    case kXres:
      if (value >= 8 && value <= kMostWidth) registers_[kXres] = value & ~7;
      break;
    case kYres:
      if (value >= 1 && value <= kMostHeight) registers_[kYres] = value;
      break;
    case kBpp:
      if (value == 0) value = 8;
      if (value == 4 || value == 8 || value == 15 || value == 16 || value == 24 || value == 32) registers_[kBpp] = value;
      break;
    case kBank:
      if (value < memory_ >> 16) registers_[kBank] = value;
      return false;
    case kEnable: {
      const bool begins = (value & kEnabled) && !enabled();
      registers_[kEnable] = value;
      if (!begins) return false;
      registers_[kVirtWidth] = registers_[kXOffset] = registers_[kYOffset] = registers_[kBank] = 0;
      if (!registers_[kXres] || !registers_[kYres]) registers_[kXres] = 640, registers_[kYres] = 480;
      fit();
      return !(value & kNoClear);
    }
    case kVirtWidth: case kXOffset: case kYOffset:
      registers_[index] = value;
      break;
    default: return false;  // read-only, or none
  }
  if (enabled()) fit();
  return false;
}

uint32_t VbeDispi::line_bytes() const {
  const unsigned bits = registers_[kBpp], width = registers_[kVirtWidth];
  return bits == 4 ? width / 8 : width * ((bits + 7) / 8);
}

uint32_t VbeDispi::start() const {
  const unsigned bits = registers_[kBpp], x = registers_[kXOffset];
  return (bits == 4 ? x / 8 : x * ((bits + 7) / 8)) + registers_[kYOffset] * line_bytes();
}

// What is shown lies in memory whatever was asked for.
void VbeDispi::fit() {
  auto& r = registers_;
  const unsigned bytes = r[kBpp] == 4 ? 1 : (r[kBpp] + 7) / 8, pixels = r[kBpp] == 4 ? 8 : 1;
  r[kVirtWidth] = std::max(r[kVirtWidth], r[kXres]) & ~7;
  if (line_bytes() * r[kYres] > room()) r[kVirtWidth] = r[kXres];
  const uint32_t line = r[kVirtWidth] / pixels * bytes;
  if (!line) return;
  r[kYres] = static_cast<uint16_t>(std::min<uint32_t>(r[kYres], room() / line));
  r[kVirtHeight] = static_cast<uint16_t>(std::min<uint32_t>(room() / line, 0xffff));
  if (r[kXOffset] + r[kXres] > r[kVirtWidth]) r[kXOffset] = static_cast<uint16_t>(r[kVirtWidth] - r[kXres]);
  if (r[kYOffset] + r[kYres] > r[kVirtHeight]) r[kYOffset] = static_cast<uint16_t>(r[kVirtHeight] - r[kYres]);
}

void VbeDispi::fields(Archive& archive) {
  archive.field(40, "vbe_registers", registers_);
  // A state from elsewhere is bounded as a guest's writes are.
  auto& r = registers_;
  r[kXres] = std::min<uint16_t>(r[kXres], kMostWidth) & ~7;
  r[kYres] = std::min(r[kYres], kMostHeight);
  if (const uint16_t b = r[kBpp]; b != 4 && b != 8 && b != 15 && b != 16 && b != 24 && b != 32) r[kBpp] = 8;
  if (r[kBank] >= memory_ >> 16) r[kBank] = 0;
  if (enabled()) fit();
}

}  // namespace vireo
