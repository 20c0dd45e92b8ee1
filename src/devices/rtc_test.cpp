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

// A date is made of several bytes, and some of its ways there are none: January 31, February 31, February 1.
TEST_F(RtcTest, BytesWrittenUnderSetAreADateWhenItEnds) {
  set(0x0b, 0x82);
  set(7, 0x31);
  set(8, 0x01);
  set(0x0b, 0x02);
  EXPECT_EQ(get(7), 0x31);
  EXPECT_EQ(get(8), 0x01);
  set(0x0b, 0x82);
  set(8, 0x02);
  EXPECT_EQ(get(7), 0x31);
  EXPECT_EQ(get(8), 0x02);
  set(7, 0x01);
  set(0x0b, 0x02);
  EXPECT_EQ(get(7), 0x01);
  EXPECT_EQ(get(8), 0x02);
  EXPECT_EQ(get(9), 0x23);
  EXPECT_EQ(get(6), 4);  // a Wednesday
}

TEST_F(RtcTest, WithoutSetADayThatTheMonthHasNotIsItsLast) {
  set(8, 0x01);
  set(7, 0x31);
  set(8, 0x02);
  EXPECT_EQ(get(7), 0x28);
  EXPECT_EQ(get(8), 0x02);
  set(9, 0x24);
  set(7, 0x31);
  EXPECT_EQ(get(7), 0x29);
}

// As Linux sets the time: SET, the divider held, bytes, SET gone, the divider let go.
TEST_F(RtcTest, TheFirstUpdateComesHalfASecondAfterTheDividerIsLetGo) {
  clock.advance(kSecond / 3);
  set(0x0b, 0x82);
  set(0x0a, 0x76);
  set(0, 0x05);
  set(0x0b, 0x02);
  clock.advance(10 * kSecond + kSecond / 4);
  EXPECT_EQ(get(0), 0x05);
  EXPECT_EQ(get(0x0a), 0x76);
  set(0x0a, 0x26);
  clock.advance(kSecond / 2 - 1'000'000);
  EXPECT_EQ(get(0), 0x05);
  clock.advance(1'000'000);
  EXPECT_EQ(get(0), 0x06);
  clock.advance(kSecond - 1'000'000);
  EXPECT_EQ(get(0), 0x06);
  clock.advance(1'000'000);
  EXPECT_EQ(get(0), 0x07);
}

TEST_F(RtcTest, SetLeavesTheDividerRunning) {
  clock.advance(kSecond / 4);
  set(0x0b, 0x82);
  clock.advance(kSecond);
  set(0x0b, 0x02);
  clock.advance(kSecond / 4 * 3);
  EXPECT_EQ(get(0), 0x21);
}

TEST_F(RtcTest, FlagsRiseWhetherOrNotTheyMayInterrupt) {
  set(1, 0x22);
  set(3, 0xff);
  set(5, 0xff);
  EXPECT_EQ(get(0x0c), 0x00);
  clock.advance(kSecond / 512);
  EXPECT_EQ(get(0x0c), 0x40);
  set(0x0a, 0x20);  // no rate
  clock.advance(kSecond);
  EXPECT_EQ(get(0x0c), 0x10);
  EXPECT_EQ(get(0x0c), 0x00);
  clock.advance(kSecond);
  EXPECT_EQ(get(0x0c), 0x30);
  EXPECT_EQ(alarms, 0);
  EXPECT_EQ(line.rises, 0);
}

TEST_F(RtcTest, WhatIsEnabledWithItsFlagUpInterruptsAtOnceAndNoLongerWhenDisabled) {
  clock.advance(kSecond);
  set(0x0b, 0x12);
  EXPECT_TRUE(line.level);
  set(0x0b, 0x02);
  EXPECT_FALSE(line.level);
  set(0x0b, 0x12);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(get(0x0c), 0xd0);
  EXPECT_FALSE(line.level);
}

TEST_F(RtcTest, AFlagThatWasReadDoesNotInterruptAgain) {
  set(0x0b, 0x12);
  clock.advance(kSecond);
  get(0x0c);
  clock.advance(kSecond);
  EXPECT_EQ(line.rises, 2);
  EXPECT_EQ(get(0x0c) & 0x90, 0x90);
  clock.advance(kSecond / 2);
  EXPECT_FALSE(line.level);
}

TEST_F(RtcTest, UpdateInterruptComesEachSecond) {
  set(0x0a, 0x20);
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
