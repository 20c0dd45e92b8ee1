// SPDX-License-Identifier: Apache-2.0
// The registers of a VGA: sequencer, CRT controller, graphics controller, attribute controller, DAC and the few of its own, behind ports
// 0x3b0 to 0x3df. Spec: IBM VGA technical reference (PS/2 Hardware Interface, Video Subsystem); names and bits as there.
#pragma once

#include <array>
#include <cstdint>

#include "base/archive.h"

namespace vireo {

class VgaRegisters {
 public:
  static constexpr unsigned kFirstPort = 0x3b0, kLastPort = 0x3df;

  // What the monitor does at this moment, which a program sees in input status 1.
  struct Beam {
    bool retrace = false, blank = false;
  };

  uint8_t read(unsigned port, Beam beam);
  void write(unsigned port, uint8_t value);
  void reset();
  void fields(Archive& archive);  // numbers 1 to 19

  uint8_t sequencer(unsigned i) const { return sequencer_[i]; }
  uint8_t graphics(unsigned i) const { return graphics_[i]; }
  uint8_t crtc(unsigned i) const { return crtc_[i]; }
  uint8_t attribute(unsigned i) const { return attribute_[i]; }
  bool memory_enabled() const { return misc_ & 2; }
  bool shown() const { return attribute_index_ & 0x20; }  // the palette is the screen's, not the CPU's
  bool graphics_mode() const { return graphics_[6] & 1; }
  bool chain4() const { return sequencer_[4] & 8; }
  unsigned display_lines() const;
  unsigned cell_lines() const { return (crtc_[9] & 0x1f) + 1u; }
  unsigned start_address() const { return crtc_[0x0c] << 8 | crtc_[0x0d]; }
  unsigned cursor_address() const { return crtc_[0x0e] << 8 | crtc_[0x0f]; }
  unsigned line_compare() const;
  // 0xRRGGBB of a DAC register; of a four-bit value as the attribute controller turns it into one.
  uint32_t color(uint8_t dac_register, bool eight_bits) const;
  uint8_t dac_register(unsigned four_bits) const;

 private:
  void write_crtc(uint8_t value);
  void write_attribute(uint8_t value);
  void write_dac(uint8_t value);

  uint8_t misc_ = 0, feature_ = 0;
  uint8_t sequencer_index_ = 0, graphics_index_ = 0, crtc_index_ = 0, attribute_index_ = 0;
  bool attribute_data_ = false;  // the flip-flop: what is written next is data
  std::array<uint8_t, 5> sequencer_{};
  std::array<uint8_t, 9> graphics_{};
  std::array<uint8_t, 25> crtc_{};
  std::array<uint8_t, 21> attribute_{};
  uint8_t pel_mask_ = 0xff, dac_read_ = 0, dac_write_ = 0, dac_part_ = 0;
  bool dac_reading_ = false;
  std::array<uint8_t, 3> dac_latch_{};
  std::array<uint8_t, 768> dac_{};
};

}  // namespace vireo
