// SPDX-License-Identifier: Apache-2.0
// What a VGA's monitor shows, as text and as pixels. Works on copies, so that a guest may go on meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/vga/vbe_dispi.h"
#include "devices/vga/vga_registers.h"

namespace vireo {

struct TextScreen {
  struct Cell {
    uint8_t character = 0, attribute = 0;
  };
  unsigned columns = 0, rows = 0;
  std::vector<Cell> cells;  // row by row
  struct Cursor {
    unsigned column, row;
  };
  std::optional<Cursor> cursor;  // where it is shown

  // Code page 437 as UTF-8, without the blanks at its end.
  std::string line(unsigned row) const;
};

struct PixelScreen {
  unsigned width = 0, height = 0;
  std::vector<uint8_t> rgb;  // three bytes a pixel
  std::string ppm() const;   // Spec: netpbm's ppm(5), P6
};

class VgaScreen {
 public:
  // `frame`: the VGA's memory; of it at most what a screen can show is looked at.
  VgaScreen(const VgaRegisters& registers, const VbeDispi& vbe, std::span<const std::byte> frame) : registers_(registers), vbe_(vbe), frame_(frame) {}

  // Nothing in a graphics mode, or while the screen is off.
  std::optional<TextScreen> text() const;
  PixelScreen pixels() const;

 private:
  PixelScreen text_pixels(const TextScreen& text) const;
  PixelScreen vga_pixels() const;
  PixelScreen vbe_pixels() const;
  uint8_t byte(size_t at) const { return at < frame_.size() ? std::to_integer<uint8_t>(frame_[at]) : 0; }

  const VgaRegisters& registers_;
  const VbeDispi& vbe_;
  std::span<const std::byte> frame_;
};

}  // namespace vireo
