// SPDX-License-Identifier: Apache-2.0
#include "devices/vga/vga.h"

#include <gtest/gtest.h>
#include <linux/pci_regs.h>

#include <random>

#include "base/fake_clock.h"
#include "devices/archive_fake.h"

namespace vireo {
namespace {

// IBM VGA technical reference, mode 3+ (80x25, 720x400, 16 colours): what a BIOS puts into the registers.
constexpr uint8_t kSequencer[] = {0x03, 0x00, 0x03, 0x00, 0x02};
constexpr uint8_t kCrtc[] = {0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff};
constexpr uint8_t kGraphics[] = {0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x00, 0xff};
constexpr uint8_t kAttribute[] = {0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0x00, 0x0f, 0x08, 0x00};

class VgaTest : public testing::Test {
 protected:
  void out(unsigned port, uint8_t value) {
    std::byte b{value};
    vga.ports().write({port - VgaRegisters::kFirstPort}, {&b, 1});
  }
  uint8_t in(unsigned port) {
    std::byte b{0xff};
    vga.ports().read({port - VgaRegisters::kFirstPort}, {&b, 1});
    return std::to_integer<uint8_t>(b);
  }
  void set(unsigned port, uint8_t index, uint8_t value) {
    out(port, index);
    out(port + 1, value);
  }
  void poke(uint32_t address, uint8_t value) {
    std::byte b{value};
    vga.window().write({address - Vga::kWindow}, {&b, 1});
  }
  uint8_t peek(uint32_t address) {
    std::byte b{0xff};
    vga.window().read({address - Vga::kWindow}, {&b, 1});
    return std::to_integer<uint8_t>(b);
  }
  void dispi(uint16_t index, uint16_t value) {
    vga.vbe_ports().write({0}, std::as_bytes(std::span(&index, 1)));
    vga.vbe_ports().write({1}, std::as_bytes(std::span(&value, 1)));
  }
  uint16_t dispi(uint16_t index) {
    uint16_t value = 0xffff;
    vga.vbe_ports().write({0}, std::as_bytes(std::span(&index, 1)));
    vga.vbe_ports().read({1}, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void set_attribute(uint8_t index, uint8_t value) {
    in(0x3da);
    out(0x3c0, index);
    out(0x3c0, value);
  }
  void mode_3() {
    out(0x3c2, 0x67);
    for (unsigned i = 0; i < sizeof kSequencer; i++) set(0x3c4, i, kSequencer[i]);
    set(0x3d4, 0x11, 0);
    for (unsigned i = 0; i < sizeof kCrtc; i++) set(0x3d4, i, kCrtc[i]);
    for (unsigned i = 0; i < sizeof kGraphics; i++) set(0x3ce, i, kGraphics[i]);
    for (unsigned i = 0; i < sizeof kAttribute; i++) set_attribute(i, kAttribute[i]);
    out(0x3c0, 0x20);
  }
  // 640x480, 16 colours: four planes at 0xa0000.
  void planar() {
    mode_3();
    set(0x3c4, 4, 0x06);
    set(0x3c4, 2, 0x0f);
    set(0x3ce, 5, 0x00);
    set(0x3ce, 6, 0x05);
  }
  std::array<uint8_t, 4> planes(uint32_t offset) {
    std::array<uint8_t, 4> bytes{};
    for (unsigned plane = 0; plane < 4; plane++) {
      set(0x3ce, 4, plane);
      bytes[plane] = peek(0xa0000 + offset);
    }
    return bytes;
  }
  void fill(uint32_t offset, std::array<uint8_t, 4> bytes) {
    set(0x3ce, 5, 0);
    set(0x3ce, 3, 0);
    set(0x3ce, 1, 0);
    set(0x3ce, 8, 0xff);
    for (unsigned plane = 0; plane < 4; plane++) {
      set(0x3c4, 2, 1 << plane);
      poke(0xa0000 + offset, bytes[plane]);
    }
    set(0x3c4, 2, 0x0f);
  }

  FakeClock clock{1'000'000'000};
  std::vector<std::byte> frame = std::vector<std::byte>(Vga::kFrameSize);
  Vga vga{{.frame = frame, .rom = std::vector<std::byte>(39 << 10, std::byte{0x5a})}, clock};
};

TEST_F(VgaTest, Mode3Shows80By25Characters) {
  mode_3();
  poke(0xb8000, 'V');
  poke(0xb8001, 0x1e);
  poke(0xb8000 + (24 * 80 + 79) * 2, 0xe4);
  set(0x3d4, 0x0e, (3 * 80 + 7) >> 8);
  set(0x3d4, 0x0f, (3 * 80 + 7) & 0xff);
  auto text = vga.text();
  ASSERT_TRUE(text);
  EXPECT_EQ(text->columns, 80u);
  EXPECT_EQ(text->rows, 25u);
  EXPECT_EQ(text->cells[0].character, 'V');
  EXPECT_EQ(text->cells[0].attribute, 0x1e);
  EXPECT_EQ(peek(0xb8001), 0x1e);
  ASSERT_TRUE(text->cursor);
  EXPECT_EQ(text->cursor->row, 3u);
  EXPECT_EQ(text->cursor->column, 7u);
  EXPECT_EQ(text->line(24).substr(text->line(24).size() - 2), "\u03a3");  // 437's 0xe4
  set(0x3d4, 0x0a, 0x2d);  // cursor off
  EXPECT_FALSE(vga.text()->cursor);
  // The window of this mode is 0xb8000 to 0xbffff alone.
  poke(0xa0000, 0x11);
  EXPECT_EQ(peek(0xa0000), 0xff);
  in(0x3da);
  out(0x3c0, 0x00);
  EXPECT_FALSE(vga.text()) << "the palette is the CPU's: the screen is off";
}

TEST_F(VgaTest, TextScrollsByTheStartAddress) {
  mode_3();
  poke(0xb8000 + 80 * 2, 'x');
  set(0x3d4, 0x0d, 80);
  EXPECT_EQ(vga.text()->line(0), "x");
}

// "Set/Reset", "Bit Mask", "Data Rotate" with its function, "Map Mask".
TEST_F(VgaTest, WriteMode0) {
  planar();
  fill(5, {0x0f, 0xf0, 0x55, 0x00});
  EXPECT_EQ(planes(5), (std::array<uint8_t, 4>{0x0f, 0xf0, 0x55, 0x00}));
  peek(0xa0005);
  set(0x3ce, 8, 0x3c);
  set(0x3c4, 2, 0x0b);
  poke(0xa0005, 0xff);
  EXPECT_EQ(planes(5), (std::array<uint8_t, 4>{0x3f, 0xfc, 0x55, 0x3c}));
  fill(6, {0x00, 0x00, 0x00, 0x00});
  peek(0xa0006);
  set(0x3ce, 3, 1);  // rotate right by one
  set(0x3ce, 0, 0x04);
  set(0x3ce, 1, 0x0c);  // planes 2 and 3 from set/reset
  poke(0xa0006, 0x01);
  EXPECT_EQ(planes(6), (std::array<uint8_t, 4>{0x80, 0x80, 0xff, 0x00}));
  fill(7, {0xff, 0x0f, 0xf0, 0xaa});
  peek(0xa0007);
  set(0x3ce, 3, 3 << 3);  // XOR
  poke(0xa0007, 0xff);
  EXPECT_EQ(planes(7), (std::array<uint8_t, 4>{0x00, 0xf0, 0x0f, 0x55}));
}

TEST_F(VgaTest, WriteMode1CopiesTheLatches) {
  planar();
  fill(1, {0x11, 0x22, 0x44, 0x88});
  peek(0xa0001);
  set(0x3ce, 5, 1);
  poke(0xa0009, 0);
  EXPECT_EQ(planes(9), (std::array<uint8_t, 4>{0x11, 0x22, 0x44, 0x88}));
}

TEST_F(VgaTest, WriteMode2TakesAColourAndWriteMode3AMask) {
  planar();
  fill(2, {});
  peek(0xa0002);
  set(0x3ce, 5, 2);
  set(0x3ce, 8, 0x80);
  poke(0xa0002, 0x0a);
  EXPECT_EQ(planes(2), (std::array<uint8_t, 4>{0x00, 0x80, 0x00, 0x80}));
  fill(3, {});
  peek(0xa0003);
  set(0x3ce, 5, 3);
  set(0x3ce, 0, 0x05);
  set(0x3ce, 8, 0x0f);
  poke(0xa0003, 0x3c);
  EXPECT_EQ(planes(3), (std::array<uint8_t, 4>{0x0c, 0x00, 0x0c, 0x00}));
}

TEST_F(VgaTest, ReadMode1ComparesColours) {
  planar();
  fill(4, {0xf0, 0xcc, 0xaa, 0x00});  // colours of the eight pixels: 7 3 5 1 6 2 4 0
  set(0x3ce, 5, 8);
  set(0x3ce, 2, 0x05);
  set(0x3ce, 7, 0x0f);
  EXPECT_EQ(peek(0xa0004), 0x20);
  set(0x3ce, 7, 0x01);  // plane 0 alone counts
  EXPECT_EQ(peek(0xa0004), 0xf0);
  set(0x3ce, 7, 0x00);
  EXPECT_EQ(peek(0xa0004), 0xff);
}

TEST_F(VgaTest, CrtcRegisters0To7AreProtectedButForLineCompare) {
  mode_3();  // its register 17 has the bit
  set(0x3d4, 0, 0x12);
  set(0x3d4, 7, 0xff);
  out(0x3d4, 0);
  EXPECT_EQ(in(0x3d5), 0x5f);
  out(0x3d4, 7);
  EXPECT_EQ(in(0x3d5), 0x1f);
  set(0x3d4, 7, 0x00);
  EXPECT_EQ(in(0x3d5), 0x0f);
  set(0x3d4, 0x11, 0x0e);
  set(0x3d4, 0, 0x12);
  EXPECT_EQ(in(0x3d5), 0x12);
}

TEST_F(VgaTest, CrtcIsAtTheColourOrTheMonochromeAddress) {
  out(0x3c2, 0x67);
  set(0x3d4, 0x0f, 0x42);
  EXPECT_EQ(in(0x3d5), 0x42);
  EXPECT_EQ(in(0x3b5), 0xff);
  out(0x3c2, 0x66);
  EXPECT_EQ(in(0x3d5), 0xff);
  EXPECT_EQ(in(0x3b5), 0x42);
  EXPECT_EQ(in(0x3cc), 0x66);
}

TEST_F(VgaTest, DacCountsThroughItsRegisters) {
  mode_3();
  out(0x3c8, 7);
  for (uint8_t v : {0x3f, 0x20, 0x00, 0x01, 0x02, 0x03}) out(0x3c9, v);
  EXPECT_EQ(in(0x3c7), 0);
  out(0x3c7, 7);
  EXPECT_EQ(in(0x3c7), 3);
  EXPECT_EQ(in(0x3c9), 0x3f);
  EXPECT_EQ(in(0x3c9), 0x20);
  EXPECT_EQ(in(0x3c9), 0x00);
  EXPECT_EQ(in(0x3c9), 0x01);
  // The whole cell of a full block is ink: six bits become eight.
  set(0x3c4, 4, 0x06);
  set(0x3c4, 2, 0x04);
  set(0x3ce, 5, 0x00);
  set(0x3ce, 6, 0x04);
  for (unsigned y = 0; y < 16; y++) poke(0xa0000 + 0xdb * 32 + y, 0xff);
  mode_3();
  poke(0xb8000, 0xdb);
  poke(0xb8001, 0x07);
  PixelScreen pixels = vga.pixels();
  ASSERT_EQ(pixels.width, 720u);
  ASSERT_EQ(pixels.height, 400u);
  for (unsigned x : {0u, 7u, 8u}) {  // box drawing fills the ninth column too
    EXPECT_EQ(pixels.rgb[x * 3], 0xff) << x;
    EXPECT_EQ(pixels.rgb[x * 3 + 1], 0x82) << x;
    EXPECT_EQ(pixels.rgb[x * 3 + 2], 0x00) << x;
  }
  EXPECT_EQ(pixels.ppm().substr(0, 15), "P6\n720 400\n255\n");
}

TEST_F(VgaTest, AttributeFlipFlopAndPalette) {
  mode_3();
  in(0x3da);
  out(0x3c0, 0x33);  // index 0x13 with the screen on
  EXPECT_EQ(in(0x3c1), 0x08);
  out(0x3c0, 0x04);
  in(0x3da);
  out(0x3c0, 0x33);
  EXPECT_EQ(in(0x3c1), 0x04);
  set_attribute(0x21, 0x3f);  // the palette is not the CPU's while it is shown
  in(0x3da);
  out(0x3c0, 0x21);
  EXPECT_EQ(in(0x3c1), 0x01);
}

TEST_F(VgaTest, RetraceComesAndGoesWithTime) {
  mode_3();
  unsigned retrace = 0, blank = 0;
  for (unsigned i = 0; i < 1000; i++) {
    const uint8_t status = in(0x3da);
    retrace += status >> 3 & 1;
    blank += status & 1;
    clock.advance(14'285);  // 70 Hz in 1000 parts
  }
  EXPECT_GE(retrace, 3u);   // 2 lines of 449
  EXPECT_LE(retrace, 6u);
  EXPECT_GT(blank, 200u);
  EXPECT_LT(blank, 400u);
}

TEST_F(VgaTest, Mode13hIsALineOfBytes) {
  mode_3();
  for (auto [i, v] : {std::pair(1, 0x01), std::pair(2, 0x0f), std::pair(4, 0x0e)}) set(0x3c4, i, v);
  set(0x3ce, 5, 0x40);
  set(0x3ce, 6, 0x05);
  set(0x3d4, 0x09, 0x41);
  set_attribute(0x30, 0x41);
  out(0x3c8, 0x9c);
  for (uint8_t v : {0x00, 0x3f, 0x15}) out(0x3c9, v);
  poke(0xa0000 + 3 * 320 + 11, 0x9c);
  EXPECT_EQ(peek(0xa0000 + 3 * 320 + 11), 0x9c);
  PixelScreen pixels = vga.pixels();
  ASSERT_EQ(pixels.width, 320u);
  ASSERT_EQ(pixels.height, 200u);
  const size_t at = (3 * 320 + 11) * 3;
  EXPECT_EQ(pixels.rgb[at], 0x00);
  EXPECT_EQ(pixels.rgb[at + 1], 0xff);
  EXPECT_EQ(pixels.rgb[at + 2], 0x55);
  EXPECT_FALSE(vga.text());
}

// vbe_display_api.txt.
TEST_F(VgaTest, DispiSetsALinearMode) {
  EXPECT_EQ(dispi(VbeDispi::kId), 0xb0c5);
  dispi(VbeDispi::kId, 0xb0c2);
  EXPECT_EQ(dispi(VbeDispi::kId), 0xb0c2);
  EXPECT_EQ(dispi(VbeDispi::kVideoMemory64K), 256);
  dispi(VbeDispi::kEnable, VbeDispi::kGetCaps);
  EXPECT_EQ(dispi(VbeDispi::kXres), 2560);
  EXPECT_EQ(dispi(VbeDispi::kBpp), 32);
  dispi(VbeDispi::kEnable, 0);
  frame[0] = std::byte{0xee};
  dispi(VbeDispi::kXres, 1024);
  dispi(VbeDispi::kYres, 768);
  dispi(VbeDispi::kBpp, 32);
  dispi(VbeDispi::kEnable, VbeDispi::kEnabled | VbeDispi::kLinear);
  EXPECT_EQ(frame[0], std::byte{0}) << "cleared";
  EXPECT_EQ(dispi(VbeDispi::kVirtWidth), 1024);
  EXPECT_EQ(dispi(VbeDispi::kVirtHeight), 4096);  // 16 MiB of lines of 4 KiB
  dispi(VbeDispi::kYOffset, 768);
  const size_t pixel = (size_t{768 + 2} * 1024 + 1) * 4;
  frame[pixel] = std::byte{0x33}, frame[pixel + 1] = std::byte{0x22}, frame[pixel + 2] = std::byte{0x11};
  PixelScreen pixels = vga.pixels();
  ASSERT_EQ(pixels.width, 1024u);
  ASSERT_EQ(pixels.height, 768u);
  EXPECT_EQ(pixels.rgb[(2 * 1024 + 1) * 3], 0x11);
  EXPECT_EQ(pixels.rgb[(2 * 1024 + 1) * 3 + 2], 0x33);
  // Through 64 KiB at 0xa0000, by banks.
  set(0x3ce, 6, 5);
  dispi(VbeDispi::kBank, static_cast<uint16_t>(pixel >> 16));
  EXPECT_EQ(peek(static_cast<uint32_t>(0xa0000 + (pixel & 0xffff))), 0x33);
  dispi(VbeDispi::kBpp, 16);
  frame[(size_t{768} * 1024) * 2] = std::byte{0x00}, frame[(size_t{768} * 1024) * 2 + 1] = std::byte{0xf8};  // 5-6-5: red
  EXPECT_EQ(vga.pixels().rgb[0], 0xff);
  EXPECT_EQ(vga.pixels().rgb[1], 0x00);
}

TEST_F(VgaTest, DispiStaysInsideOfItsMemory) {
  dispi(VbeDispi::kXres, 2560);
  dispi(VbeDispi::kYres, 1600);
  dispi(VbeDispi::kBpp, 32);
  dispi(VbeDispi::kEnable, VbeDispi::kEnabled | VbeDispi::kLinear);
  dispi(VbeDispi::kVirtWidth, 0xffff);
  dispi(VbeDispi::kYOffset, 0xffff);
  dispi(VbeDispi::kXOffset, 0xffff);
  EXPECT_LE(uint64_t{dispi(VbeDispi::kVirtWidth)} * 4 * (dispi(VbeDispi::kYOffset) + dispi(VbeDispi::kYres)), Vga::kFrameSize);
  EXPECT_EQ(vga.pixels().width, 2560u);
}

TEST_F(VgaTest, OnPciFrameRegistersAndRom) {
  auto read32 = [&](uint16_t at) {
    uint32_t value;
    vga.read_config(at, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  };
  auto write32 = [&](uint16_t at, uint32_t value) { vga.write_config(at, std::as_bytes(std::span(&value, 1))); };
  EXPECT_EQ(read32(PCI_VENDOR_ID), 0x11111234u);
  EXPECT_EQ(read32(PCI_CLASS_REVISION) >> 8, 0x030000u);
  write32(PCI_BASE_ADDRESS_0, ~0u);
  EXPECT_EQ(read32(PCI_BASE_ADDRESS_0), 0xff000008u);
  write32(PCI_BASE_ADDRESS_2, ~0u);
  EXPECT_EQ(read32(PCI_BASE_ADDRESS_2), 0xfffff000u);
  write32(PCI_ROM_ADDRESS, ~0u & ~PCI_ROM_ADDRESS_ENABLE);
  EXPECT_EQ(read32(PCI_ROM_ADDRESS), 0xffff0000u);  // 39 KiB in 64
  write32(PCI_COMMAND, PCI_COMMAND_MEMORY);
  write32(PCI_ROM_ADDRESS, 0xfebe0000);
  EXPECT_EQ(vga.bar_address(PciDevice::kRom), PciDevice::kNotDecoded);
  write32(PCI_ROM_ADDRESS, 0xfebe0000 | PCI_ROM_ADDRESS_ENABLE);
  EXPECT_EQ(vga.bar_address(PciDevice::kRom), 0xfebe0000u);
  uint32_t rom = 0;
  vga.read(PciDevice::kRom, {0}, std::as_writable_bytes(std::span(&rom, 1)));
  EXPECT_EQ(rom, 0x5a5a5a5au);
  vga.read(PciDevice::kRom, {0xfffc}, std::as_writable_bytes(std::span(&rom, 1)));
  EXPECT_EQ(rom, 0xffffffffu) << "behind what is in it";
  // BAR 2: VGA's ports from 0x400 on, Bochs's registers from 0x500 on.
  uint16_t value = 800;
  vga.write(2, {0x502}, std::as_bytes(std::span(&value, 1)));
  EXPECT_EQ(dispi(VbeDispi::kXres), 800);
  uint8_t misc = 0x67;
  vga.write(2, {0x402}, std::as_bytes(std::span(&misc, 1)));
  EXPECT_EQ(in(0x3cc), 0x67);
}

TEST_F(VgaTest, WhateverIsWrittenStaysInBoundsAndIsSavedWhole) {
  std::mt19937 random(1);
  std::vector<std::byte> other_frame(Vga::kFrameSize);
  for (unsigned round = 0; round < 40; round++) {
    for (unsigned i = 0; i < 400; i++) {
      switch (random() % 5) {
        case 0: set(std::array{0x3c4, 0x3ce, 0x3d4}[random() % 3], random() % 32, static_cast<uint8_t>(random())); break;
        case 1: dispi(random() % 12, static_cast<uint16_t>(random())); break;
        case 2: poke(0xa0000 + random() % 0x20000, static_cast<uint8_t>(random())); break;
        case 3: peek(0xa0000 + random() % 0x20000); break;
        default: out(0x3b0 + random() % 0x30, static_cast<uint8_t>(random())); break;
      }
    }
    vga.pixels();
    vga.text();
    MemoryArchive first;
    vga.fields(first);
    EXPECT_FALSE(first.duplicate);
    first.loading = true;
    Vga other{{.frame = other_frame, .rom = {}}, clock};
    other.fields(first);
    MemoryArchive second;
    other.fields(second);
    EXPECT_EQ(first.fields, second.fields);
  }
}

}  // namespace
}  // namespace vireo
