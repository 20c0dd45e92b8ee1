// SPDX-License-Identifier: Apache-2.0
#include "devices/rtc.h"

#include <gtest/gtest.h>

#include "base/fake_clock.h"

namespace vireo {
namespace {

struct Line final : IrqLine {
  void set(bool l) override {
    if (l && !level) rises++;
    level = l;
  }
  bool level = false;
  int rises = 0;
};

class RtcTest : public testing::Test {
 protected:
  static constexpr uint64_t kSecond = 1'000'000'000;
  uint8_t get(uint8_t index) {
    std::byte i{index}, v{0xff};
    rtc.write({0}, {&i, 1});
    rtc.read({1}, {&v, 1});
    return std::to_integer<uint8_t>(v);
  }
  void set(uint8_t index, uint8_t value) {
    std::byte i{index}, v{value};
    rtc.write({0}, {&i, 1});
    rtc.write({1}, {&v, 1});
  }
  FakeClock clock{kSecond};
  Line line;
  int alarms = 0;
  // 2023-11-14 22:13:20 UTC, a Tuesday
  Rtc rtc{{.start = 1'700'000'000, .nvram = {{0x34, 0x12}}}, {line, clock, clock, [this] { alarms++; }}};
};

TEST_F(RtcTest, TellsTheDateInBcd) {
  EXPECT_EQ(get(0), 0x20);
  EXPECT_EQ(get(2), 0x13);
  EXPECT_EQ(get(4), 0x22);
  EXPECT_EQ(get(6), 3);
  EXPECT_EQ(get(7), 0x14);
  EXPECT_EQ(get(8), 0x11);
  EXPECT_EQ(get(9), 0x23);
  EXPECT_EQ(get(0x32), 0x20);
  EXPECT_EQ(get(0x34), 0x12);
}

TEST_F(RtcTest, TwelveHourModeMarksTheAfternoon) {
  set(0x0b, 0x00);
  EXPECT_EQ(get(4), 0x90);  // 10 p.m.
}

TEST_F(RtcTest, BinaryModeCountsInBinary) {
  set(0x0b, 0x06);
  EXPECT_EQ(get(4), 22);
}

TEST_F(RtcTest, SetFreezesAndStores) {
  set(0x0b, 0x82);
  set(0, 0x05);
  clock.advance(10 * kSecond);
  EXPECT_EQ(get(0), 0x05);
  set(0x0b, 0x02);
  clock.advance(2 * kSecond);
  EXPECT_EQ(get(0), 0x07);
}

TEST_F(RtcTest, UpdateInterruptComesEachSecond) {
  set(0x0b, 0x12);
  clock.advance(kSecond);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(get(0x0c), 0x90);
  EXPECT_FALSE(line.level);
  EXPECT_EQ(get(0x0c), 0x00);
  clock.advance(kSecond);
  EXPECT_TRUE(line.level);
}

TEST_F(RtcTest, AlarmGoesToItsPinWhereItInterruptsAndGoesOnOverSuspendToRam) {
  for (uint8_t index : {1, 3, 5}) set(index, 0xc0);  // every second
  set(0x0b, 0x12);                                   // update-ended interrupts alone
  clock.advance(2 * kSecond);
  EXPECT_EQ(alarms, 0);
  set(0x0b, 0x22);
  rtc.reset(ResetKind::kWake);
  clock.advance(2 * kSecond);
  EXPECT_EQ(alarms, 2);
  rtc.reset(ResetKind::kWarm);
  clock.advance(2 * kSecond);
  EXPECT_EQ(alarms, 2);
}

TEST_F(RtcTest, AlarmMatchesItsSecond) {
  set(1, 0x23);
  set(3, 0xff);
  set(5, 0xff);
  set(0x0b, 0x22);
  clock.advance(2 * kSecond);
  EXPECT_FALSE(line.level);
  clock.advance(kSecond);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(get(0x0c) & 0x20, 0x20);
}

TEST_F(RtcTest, PeriodicRateSixIs1024Hz) {
  set(0x0a, 0x26);
  set(0x0b, 0x42);
  for (int i = 0; i < 1024; i++) {
    clock.advance(kSecond / 1024);
    get(0x0c);
  }
  EXPECT_NEAR(line.rises, 1024, 1);
}

TEST_F(RtcTest, UipRisesBeforeTheUpdate) {
  EXPECT_EQ(get(0x0a) & 0x80, 0);
  clock.advance(kSecond - 100'000);
  EXPECT_EQ(get(0x0a) & 0x80, 0x80);
}

}  // namespace
}  // namespace vireo
