// SPDX-License-Identifier: Apache-2.0
#include "devices/vga/vga_registers.h"

#include <algorithm>

namespace vireo {
namespace {

// Bits that are there at all.
constexpr std::array<uint8_t, 5> kSequencerBits{0x03, 0x3d, 0x0f, 0x3f, 0x0e};
constexpr std::array<uint8_t, 9> kGraphicsBits{0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff};
constexpr uint8_t kColorPorts = 1;  // of misc: the CRT controller is at 0x3d4, not 0x3b4

}  // namespace

void VgaRegisters::reset() { *this = VgaRegisters(); }

uint8_t VgaRegisters::read(unsigned port, Beam beam) {
  // The other set of addresses is nobody's.
  const bool mono = port >= 0x3b0 && port < 0x3c0, color = port >= 0x3d0;
  if ((mono && (misc_ & kColorPorts)) || (color && !(misc_ & kColorPorts))) return 0xff;
  switch (port) {
    case 0x3c0: return attribute_data_ ? 0 : attribute_index_;
    case 0x3c1: {
      const unsigned index = attribute_index_ & 0x1f;
      return index < attribute_.size() ? attribute_[index] : 0;
    }
    case 0x3c2: return 0x10;  // switch sense: a colour monitor
    case 0x3c3: return 1;     // the subsystem is on
    case 0x3c4: return sequencer_index_;
    case 0x3c5: return sequencer_index_ < sequencer_.size() ? sequencer_[sequencer_index_] : 0;
    case 0x3c6: return pel_mask_;
    case 0x3c7: return dac_reading_ ? 3 : 0;
    case 0x3c8: return dac_write_;
    case 0x3c9: {
      const uint8_t value = dac_[dac_read_ * 3 + dac_part_];
      if (++dac_part_ == 3) dac_part_ = 0, dac_read_++;
      return value;
    }
    case 0x3ca: return feature_;
    case 0x3cc: return misc_;
    case 0x3ce: return graphics_index_;
    case 0x3cf: return graphics_index_ < graphics_.size() ? graphics_[graphics_index_] : 0;
    case 0x3b4: case 0x3d4: return crtc_index_;
    case 0x3b5: case 0x3d5: return crtc_index_ < crtc_.size() ? crtc_[crtc_index_] : 0;
    case 0x3ba: case 0x3da:
      attribute_data_ = false;
      return static_cast<uint8_t>((beam.retrace ? 8 : 0) | (beam.blank || beam.retrace ? 1 : 0));
    default: return 0xff;
  }
}

void VgaRegisters::write(unsigned port, uint8_t value) {
  const bool mono = port >= 0x3b0 && port < 0x3c0, color = port >= 0x3d0;
  if ((mono && (misc_ & kColorPorts)) || (color && !(misc_ & kColorPorts))) return;
  switch (port) {
    case 0x3c0: return write_attribute(value);
    case 0x3c2:
      misc_ = value & 0xef;
      return;
    case 0x3c4:
      sequencer_index_ = value & 7;
      return;
    case 0x3c5:
      if (sequencer_index_ < sequencer_.size()) sequencer_[sequencer_index_] = value & kSequencerBits[sequencer_index_];
      return;
    case 0x3c6:
      pel_mask_ = value;
      return;
    case 0x3c7:
      dac_read_ = value;
      dac_part_ = 0;
      dac_reading_ = true;
      return;
    case 0x3c8:
      dac_write_ = value;
      dac_part_ = 0;
      dac_reading_ = false;
      return;
    case 0x3c9: return write_dac(value);
    case 0x3ce:
      graphics_index_ = value & 0x0f;
      return;
    case 0x3cf:
      if (graphics_index_ < graphics_.size()) graphics_[graphics_index_] = value & kGraphicsBits[graphics_index_];
      return;
    case 0x3b4: case 0x3d4:
      crtc_index_ = value;
      return;
    case 0x3b5: case 0x3d5: return write_crtc(value);
    case 0x3ba: case 0x3da:
      feature_ = value & 0x10;
      return;
    default: return;
  }
}

void VgaRegisters::write_attribute(uint8_t value) {
  const bool data = attribute_data_;
  attribute_data_ = !data;
  if (!data) {
    attribute_index_ = value & 0x3f;
    return;
  }
  const unsigned index = attribute_index_ & 0x1f;
  if (index < 0x10 && shown()) return;  // the palette is not the CPU's meanwhile
  static constexpr std::array<uint8_t, 5> kBits{0xef, 0xff, 0x3f, 0x0f, 0x0f};
  if (index < 0x10)
    attribute_[index] = value & 0x3f;
  else if (index < attribute_.size())
    attribute_[index] = value & kBits[index - 0x10];
}

void VgaRegisters::write_crtc(uint8_t value) {
  if (crtc_index_ >= crtc_.size()) return;
  if ((crtc_[0x11] & 0x80) && crtc_index_ <= 7) {
    // Protected, all but the bit of line compare.
    if (crtc_index_ == 7) crtc_[7] = (crtc_[7] & ~0x10) | (value & 0x10);
    return;
  }
  crtc_[crtc_index_] = value;
}

void VgaRegisters::write_dac(uint8_t value) {
  dac_latch_[dac_part_] = value;
  if (++dac_part_ < 3) return;
  std::ranges::copy(dac_latch_, dac_.begin() + dac_write_ * 3);
  dac_part_ = 0;
  dac_write_++;
}

unsigned VgaRegisters::display_lines() const { return (crtc_[0x12] | (crtc_[7] & 0x02) << 7 | (crtc_[7] & 0x40) << 3) + 1u; }

unsigned VgaRegisters::line_compare() const { return crtc_[0x18] | (crtc_[7] & 0x10) << 4 | (crtc_[9] & 0x40) << 3; }

uint8_t VgaRegisters::dac_register(unsigned four_bits) const {
  uint8_t value = attribute_[four_bits & attribute_[0x12] & 0x0f];
  if (attribute_[0x10] & 0x80) value = static_cast<uint8_t>((value & 0x0f) | (attribute_[0x14] & 3) << 4);
  return static_cast<uint8_t>((value & 0x3f) | (attribute_[0x14] & 0x0c) << 4);
}

uint32_t VgaRegisters::color(uint8_t index, bool eight_bits) const {
  const uint8_t* entry = &dac_[(index & pel_mask_) * 3];
  auto part = [eight_bits](uint8_t v) -> uint32_t { return eight_bits ? v : (v & 0x3f) << 2 | (v & 0x3f) >> 4; };
  return part(entry[0]) << 16 | part(entry[1]) << 8 | part(entry[2]);
}

void VgaRegisters::fields(Archive& archive) {
  archive.field(1, "misc", misc_);
  archive.field(2, "feature", feature_);
  archive.field(3, "sequencer_index", sequencer_index_);
  archive.field(4, "graphics_index", graphics_index_);
  archive.field(5, "crtc_index", crtc_index_);
  archive.field(6, "attribute_index", attribute_index_);
  archive.field(7, "attribute_data", attribute_data_);
  archive.field(8, "sequencer", sequencer_);
  archive.field(9, "graphics", graphics_);
  archive.field(10, "crtc", crtc_);
  archive.field(11, "attribute", attribute_);
  archive.field(12, "pel_mask", pel_mask_);
  archive.field(13, "dac_read", dac_read_);
  archive.field(14, "dac_write", dac_write_);
  archive.field(15, "dac_part", dac_part_);
  archive.field(16, "dac_reading", dac_reading_);
  archive.field(17, "dac_latch", dac_latch_);
  archive.field(18, "dac", dac_);
  if (dac_part_ > 2) dac_part_ = 0;  // a state from elsewhere
}

}  // namespace vireo
