// SPDX-License-Identifier: Apache-2.0
// A guest's accesses to the screen: each 4 bytes of the input are one, of where (port, Bochs's register, window, BAR 2), two bytes of address and
// a byte of data. Whatever the registers say, what is shown lies in the frame.
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/fake_clock.h"
#include "devices/vga/vga.h"

using namespace vireo;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static std::vector<std::byte> frame(Vga::kFrameSize);
  FakeClock clock;
  Vga vga({.frame = frame, .rom = {}}, clock);
  unsigned shown = 0;
  for (; size >= 4; data += 4, size -= 4) {
    const uint16_t at = static_cast<uint16_t>(data[1] | data[2] << 8), wide = static_cast<uint16_t>(data[3] << 8 | data[2]);
    std::byte value{data[3]};
    std::span one(&value, 1);
    auto two = std::as_bytes(std::span(&wide, 1));
    switch (data[0] & 7) {
      case 0: vga.ports().write({at % Vga::kPorts}, one); break;
      case 1: vga.ports().read({at % Vga::kPorts}, one); break;
      case 2: vga.vbe_ports().write({data[1] & 1u}, two); break;
      case 3: vga.window().write({(at << 1 | (data[0] >> 7)) % Vga::kWindowSize}, one); break;
      case 4: vga.window().read({(at << 1 | (data[0] >> 7)) % Vga::kWindowSize}, one); break;
      case 5: vga.write(2, {at % 0x1000u}, one); break;
      case 6: vga.write(2, {at % 0xffeu & ~1u}, two); break;
      default:
        if (shown++ > 2) break;  // costs more than all else
        vga.text();
        if (PixelScreen pixels = vga.pixels(); pixels.rgb.size() != size_t{pixels.width} * pixels.height * 3) __builtin_trap();
        break;
    }
    clock.advance(100'000);
  }
  return 0;
}
