// SPDX-License-Identifier: Apache-2.0
#include "devices/vga/vga_screen.h"

#include <algorithm>

#include "devices/vga/code_page_437.h"

namespace vireo {
namespace {

// What no monitor of the VGA's could show is cut off.
constexpr unsigned kMostColumns = 256, kMostLines = 2048;

void append_utf8(std::string& to, char16_t c) {
  if (c < 0x80) {
    to += static_cast<char>(c);
  } else if (c < 0x800) {
    to += static_cast<char>(0xc0 | c >> 6);
    to += static_cast<char>(0x80 | (c & 0x3f));
  } else {
    to += static_cast<char>(0xe0 | c >> 12);
    to += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    to += static_cast<char>(0x80 | (c & 0x3f));
  }
}

PixelScreen blank(unsigned width, unsigned height) { return {width, height, std::vector<uint8_t>(size_t{width} * height * 3)}; }

void put(PixelScreen& screen, unsigned x, unsigned y, uint32_t color) {
  uint8_t* at = &screen.rgb[(size_t{y} * screen.width + x) * 3];
  at[0] = static_cast<uint8_t>(color >> 16), at[1] = static_cast<uint8_t>(color >> 8), at[2] = static_cast<uint8_t>(color);
}

}  // namespace

std::string TextScreen::line(unsigned row) const {
  std::string text;
  for (unsigned i = 0; i < columns; i++) append_utf8(text, kCodePage437[cells[size_t{row} * columns + i].character]);
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

std::string PixelScreen::ppm() const {
  std::string out = "P6\n" + std::to_string(width) + " " + std::to_string(height) + "\n255\n";
  out.append(reinterpret_cast<const char*>(rgb.data()), rgb.size());
  return out;
}

std::optional<TextScreen> VgaScreen::text() const {
  const VgaRegisters& r = registers_;
  if (vbe_.enabled() || r.graphics_mode() || !r.shown()) return {};
  TextScreen screen;
  screen.columns = std::min(r.crtc(1) + 1u, kMostColumns);
  screen.rows = std::min(r.display_lines(), kMostLines) / r.cell_lines();
  if (!screen.rows) return {};
  const unsigned pitch = r.crtc(0x13) * 2;
  screen.cells.resize(size_t{screen.columns} * screen.rows);
  for (unsigned row = 0; row < screen.rows; row++)
    for (unsigned column = 0; column < screen.columns; column++) {
      const size_t at = size_t{(r.start_address() + row * pitch + column) & 0xffff} * 4;
      screen.cells[size_t{row} * screen.columns + column] = {byte(at), byte(at + 1)};
    }
  const unsigned first = r.crtc(0x0a) & 0x1f, last = r.crtc(0x0b) & 0x1f;
  if (!(r.crtc(0x0a) & 0x20) && first <= last && pitch) {
    const unsigned at = (r.cursor_address() - r.start_address()) & 0xffff;
    if (at / pitch < screen.rows && at % pitch < screen.columns) screen.cursor = TextScreen::Cursor{at % pitch, at / pitch};
  }
  return screen;
}

PixelScreen VgaScreen::pixels() const {
  if (vbe_.enabled()) return vbe_pixels();
  if (auto screen = text()) return text_pixels(*screen);
  return vga_pixels();
}

PixelScreen VgaScreen::text_pixels(const TextScreen& text) const {
  const VgaRegisters& r = registers_;
  const unsigned cell = r.sequencer(1) & 1 ? 8 : 9, lines = r.cell_lines();
  PixelScreen screen = blank(text.columns * cell, text.rows * lines);
  // The two sets of characters, in plane 2 at multiples of 8 KiB: bits 2 and 4, 5 of "character map select", then its other bits.
  const unsigned select = r.sequencer(3);
  auto font_at = [](unsigned low, unsigned high) { return (low & 3) * 0x4000 + high * 0x2000; };
  const unsigned fonts[2] = {font_at(select & 3, select >> 4 & 1), font_at(select >> 2 & 3, select >> 5 & 1)};
  const bool two_fonts = fonts[0] != fonts[1], blink = r.attribute(0x10) & 8;
  for (unsigned row = 0; row < text.rows; row++)
    for (unsigned column = 0; column < text.columns; column++) {
      const TextScreen::Cell at = text.cells[size_t{row} * text.columns + column];
      // Bit 3 of the attribute chooses the set where there are two: 1 is map A, whose bits are 2, 3 and 5.
      const unsigned font = at.attribute & 8 ? fonts[1] : fonts[0];
      const uint32_t ink = r.color(r.dac_register(two_fonts ? at.attribute & 7 : at.attribute & 15), false);
      const uint32_t paper = r.color(r.dac_register(blink ? at.attribute >> 4 & 7 : at.attribute >> 4), false);
      const bool cursor = text.cursor && text.cursor->row == row && text.cursor->column == column;
      for (unsigned y = 0; y < lines; y++) {
        unsigned bits = byte((size_t{font} + at.character * 32u + y) * 4 + 2) << 1;
        if ((r.attribute(0x10) & 4) && at.character >= 0xc0 && at.character <= 0xdf) bits |= bits >> 1 & 1;  // box drawing reaches the next cell
        if (cursor && y >= (r.crtc(0x0a) & 0x1fu) && y <= (r.crtc(0x0b) & 0x1fu)) bits = 0x1ff;
        for (unsigned x = 0; x < cell; x++) put(screen, column * cell + x, row * lines + y, bits >> (8 - x) & 1 ? ink : paper);
      }
    }
  return screen;
}

PixelScreen VgaScreen::vga_pixels() const {
  const VgaRegisters& r = registers_;
  const unsigned shift = r.graphics(5) >> 5 & 3;
  const unsigned scans = r.cell_lines() * (r.crtc(9) & 0x80 ? 2 : 1);  // a line is shown so often
  const unsigned columns = std::min(r.crtc(1) + 1u, kMostColumns);
  const unsigned width = shift & 2 ? columns * 4 : columns * 8;
  const bool cga = !(r.crtc(0x17) & 1);  // the low bit of the row is address bit 13: the odd lines lie behind the even ones
  const unsigned all = std::min(r.display_lines(), kMostLines);
  const unsigned height = std::max(1u, cga && !(shift & 2) ? all / std::max(1u, scans / 2) : all / scans);
  PixelScreen screen = blank(width, height);
  if (!r.shown()) return screen;
  const unsigned pitch = r.crtc(0x13) * 2u;  // of each plane
  for (unsigned y = 0; y < height; y++) {
    unsigned line = r.start_address() + (cga ? y / 2 * pitch : y * pitch) + (cga && (y & 1) ? 0x2000 : 0);
    for (unsigned x = 0; x < width; x++) {
      uint32_t color;
      if (shift & 2) {
        color = r.color(byte(size_t{line} * 4 + x), false);
      } else if (shift) {
        // Two bits a pixel, bytes in turn from planes 0 and 1.
        const unsigned value = byte(size_t{(line + x / 8) & 0xffff} * 4 + (x / 4 & 1)) >> (6 - 2 * (x & 3)) & 3;
        color = r.color(r.dac_register(value), false);
      } else {
        const size_t at = size_t{(line + x / 8) & 0xffff} * 4;
        unsigned value = 0;
        for (unsigned plane = 0; plane < 4; plane++) value |= (byte(at + plane) >> (7 - (x & 7)) & 1u) << plane;
        color = r.color(r.dac_register(value), false);
      }
      put(screen, x, y, color);
    }
  }
  return screen;
}

PixelScreen VgaScreen::vbe_pixels() const {
  const unsigned bits = vbe_.bits();
  PixelScreen screen = blank(vbe_.width(), vbe_.height());
  for (unsigned y = 0; y < screen.height; y++) {
    const size_t line = size_t{vbe_.start()} + size_t{y} * vbe_.line_bytes();
    for (unsigned x = 0; x < screen.width; x++) {
      uint32_t color;
      auto wide = [&](unsigned bytes) {
        uint32_t value = 0;
        for (unsigned i = 0; i < bytes; i++) value |= uint32_t{byte(line + size_t{x} * bytes + i)} << 8 * i;
        return value;
      };
      auto grow = [](uint32_t value, unsigned from) { return (value << (8 - from) | value >> (2 * from - 8)) & 0xff; };
      switch (bits) {
        case 4: {
          unsigned value = 0;
          for (unsigned plane = 0; plane < 4; plane++) value |= (byte((line + x / 8) * 4 + plane) >> (7 - (x & 7)) & 1u) << plane;
          color = registers_.color(registers_.dac_register(value), vbe_.eight_bit_dac());
          break;
        }
        case 8: color = registers_.color(static_cast<uint8_t>(wide(1)), vbe_.eight_bit_dac()); break;
        case 15: {
          const uint32_t v = wide(2);
          color = grow(v >> 10 & 31, 5) << 16 | grow(v >> 5 & 31, 5) << 8 | grow(v & 31, 5);
          break;
        }
        case 16: {
          const uint32_t v = wide(2);
          color = grow(v >> 11 & 31, 5) << 16 | grow(v >> 5 & 63, 6) << 8 | grow(v & 31, 5);
          break;
        }
        default: color = wide(bits / 8) & 0xffffff; break;
      }
      put(screen, x, y, color);
    }
  }
  return screen;
}

}  // namespace vireo
