// SPDX-License-Identifier: Apache-2.0
#include "devices/i8042.h"

#include <gtest/gtest.h>

namespace vireo {
namespace {

struct Line final : IrqLine {
  void set(bool l) override { level = l; }
  bool level = false;
};

class I8042Test : public testing::Test {
 protected:
  uint8_t in(uint64_t offset) {
    std::byte b{0xff};
    ps2.read({offset}, {&b, 1});
    return std::to_integer<uint8_t>(b);
  }
  void out(uint64_t offset, uint8_t value) {
    std::byte b{value};
    ps2.write({offset}, {&b, 1});
  }
  void mouse(uint8_t value) {
    out(4, 0xd4);
    out(0, value);
  }
  Line keyboard_line, mouse_line;
  int resets = 0;
  I8042 ps2{{keyboard_line, mouse_line, [this] { resets++; }}};
};

TEST_F(I8042Test, SelfTestAnswers55) {
  out(4, 0xaa);
  EXPECT_EQ(in(4) & 1, 1);
  EXPECT_EQ(in(0), 0x55);
  EXPECT_EQ(in(4) & 1, 0);
}

TEST_F(I8042Test, CommandByteReadsBack) {
  out(4, 0x60);
  out(0, 0x74);
  out(4, 0x20);
  EXPECT_EQ(in(0), 0x74);
}

TEST_F(I8042Test, PulseOfLineZeroResets) {
  out(4, 0xfe);
  EXPECT_EQ(resets, 1);
  out(4, 0xff);  // pulses nothing
  EXPECT_EQ(resets, 1);
}

TEST_F(I8042Test, KeyboardResetAcknowledgesThenPasses) {
  out(0, 0xff);
  EXPECT_TRUE(keyboard_line.level);
  EXPECT_EQ(in(0), 0xfa);
  EXPECT_EQ(in(0), 0xaa);
  EXPECT_FALSE(keyboard_line.level);
}

TEST_F(I8042Test, MouseAnswersOnItsOwnLine) {
  mouse(0xff);
  EXPECT_TRUE(mouse_line.level);
  EXPECT_EQ(in(4) & 0x21, 0x21);
  EXPECT_EQ(in(0), 0xfa);
  EXPECT_EQ(in(0), 0xaa);
  EXPECT_EQ(in(0), 0x00);
  mouse(0xf2);
  EXPECT_EQ(in(0), 0xfa);
  EXPECT_EQ(in(0), 0x00);
}

// IBM PS/2 Technical Reference, mouse commands: f0 set remote mode, ea set stream mode, ee set wrap mode, ec reset wrap mode.
TEST_F(I8042Test, MouseHasRemoteAndWrapModes) {
  auto status = [&] {
    mouse(0xe9);
    EXPECT_EQ(in(0), 0xfa);
    const uint8_t first = in(0);
    in(0), in(0);
    return first;
  };
  mouse(0xf4);
  EXPECT_EQ(in(0), 0xfa);
  mouse(0xf0);
  EXPECT_EQ(in(0), 0xfa);
  EXPECT_EQ(status(), 0x60);
  ps2.mouse(1, 1, 0);
  EXPECT_EQ(in(4) & 1, 0) << "not asked for";
  mouse(0xea);
  EXPECT_EQ(in(0), 0xfa);
  EXPECT_EQ(status(), 0x20);
  mouse(0xee);
  EXPECT_EQ(in(0), 0xfa);
  mouse(0xe9);
  EXPECT_EQ(in(0), 0xe9);
  EXPECT_EQ(in(4) & 1, 0);
  mouse(0xec);
  EXPECT_EQ(in(0), 0xfa);
  EXPECT_EQ(status(), 0x20);
  mouse(0xee);
  in(0);
  mouse(0xff);
  EXPECT_EQ(in(0), 0xfa);
  EXPECT_EQ(in(0), 0xaa);
}

TEST_F(I8042Test, AuxLoopbackReturnsTheByteAsTheMouses) {
  out(4, 0xd3);
  out(0, 0x5a);
  EXPECT_EQ(in(4) & 0x21, 0x21);
  EXPECT_EQ(in(0), 0x5a);
}

TEST_F(I8042Test, KeysWaitForTheirTurn) {
  uint8_t codes[] = {0x1e, 0x9e};
  ps2.key(codes);
  EXPECT_EQ(in(0), 0x1e);
  EXPECT_EQ(in(0), 0x9e);
  EXPECT_EQ(in(4) & 1, 0);
}

// Output port, bit 1; by "write output port" (d1), and by the commands dd and df that many controllers have.
TEST_F(I8042Test, OutputPortHoldsTheA20Gate) {
  bool open = false;
  I8042 gated{{keyboard_line, mouse_line, [] {}, [&](bool value) { open = value; }}};
  auto write = [&](uint64_t offset, uint8_t value) {
    std::byte b{value};
    gated.write({offset}, {&b, 1});
  };
  EXPECT_TRUE(open) << "at power-on";
  write(4, 0xd1);
  write(0, 0xdd);
  EXPECT_FALSE(open);
  write(4, 0xd1);
  write(0, 0xdf);
  EXPECT_TRUE(open);
  write(4, 0xdd);
  EXPECT_FALSE(open);
  write(4, 0xdf);
  EXPECT_TRUE(open);
  write(4, 0xdd);
  gated.reset(ResetKind::kCold);
  EXPECT_TRUE(open);
}

}  // namespace
}  // namespace vireo
