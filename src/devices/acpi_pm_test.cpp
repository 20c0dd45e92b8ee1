// SPDX-License-Identifier: Apache-2.0
// Expected values: ACPI 6.5, 4.8.3.
#include "devices/acpi_pm.h"

#include <gtest/gtest.h>

#include "base/fake_clock.h"

namespace vireo {
namespace {

struct Line final : IrqLine {
  void set(bool l) override { level = l; }
  bool level = false;
};

class AcpiPmTest : public testing::Test {
 protected:
  template <class T>
  T in(uint64_t offset) {
    T value;
    pm.read({offset}, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  template <class T>
  void out(uint64_t offset, T value) {
    pm.write({offset}, std::as_bytes(std::span(&value, 1)));
  }
  FakeClock clock;
  Line sci;
  int offs = 0, suspends = 0, wakes = 0;
  AcpiPm pm{{sci, clock, clock, [this] { offs++; }, [this] { suspends++; }, [this] { wakes++; }}};

  static constexpr uint16_t kRtc = 1 << 10, kButton = 1 << 8, kWake = 1 << 15;
};

TEST_F(AcpiPmTest, TimerRunsAt3579545Hz) {
  uint32_t before = in<uint32_t>(8);
  clock.advance(1'000'000'000);
  EXPECT_NEAR(in<uint32_t>(8) - before, 3579545, 1);
}

TEST_F(AcpiPmTest, TimerHas24Bits) {
  clock.advance(100'000'000'000);
  EXPECT_LT(in<uint32_t>(8), 1u << 24);
}

TEST_F(AcpiPmTest, TimerCarryInterruptsWhenEnabled) {
  out<uint16_t>(2, 1);
  clock.advance(2'400'000'000);  // bit 23 changes every 2.34 s
  EXPECT_TRUE(sci.level);
  out<uint16_t>(0, 1);
  EXPECT_FALSE(sci.level);
}

TEST_F(AcpiPmTest, PowerButtonInterruptsAndIsClearedByWritingOne) {
  pm.power_button();
  EXPECT_FALSE(sci.level);
  out<uint16_t>(2, 1 << 8);
  EXPECT_TRUE(sci.level);
  EXPECT_EQ(in<uint16_t>(0) & 1 << 8, 1 << 8);
  out<uint16_t>(0, 1 << 8);
  EXPECT_FALSE(sci.level);
}

TEST_F(AcpiPmTest, OnlySoftOffSwitchesOff) {
  out<uint16_t>(4, 1 << 13 | 2 << 10);
  EXPECT_EQ(offs + suspends, 0);
  out<uint16_t>(4, 1 << 13 | AcpiPm::kSoftOff << 10);
  EXPECT_EQ(offs, 1);
  EXPECT_EQ(in<uint16_t>(4) & 1 << 13, 0);
  EXPECT_EQ(in<uint16_t>(4) & 1, 1);  // SCI_EN
}

TEST_F(AcpiPmTest, SuspendIsAskedForAndAnEnabledAlarmWakes) {
  out<uint16_t>(2, kRtc);
  out<uint16_t>(4, 1 << 13 | AcpiPm::kSuspendToRam << 10);
  EXPECT_EQ(suspends, 1);
  EXPECT_EQ(offs, 0);
  pm.sleep();
  EXPECT_EQ(wakes, 0);
  pm.rtc_alarm();
  pm.rtc_alarm();
  EXPECT_EQ(wakes, 1);
  EXPECT_EQ(in<uint16_t>(0), kRtc);
  pm.reset(ResetKind::kWake);
  EXPECT_EQ(in<uint16_t>(0), kWake | kRtc);
  EXPECT_EQ(in<uint16_t>(2), kRtc);
  EXPECT_TRUE(sci.level);
}

TEST_F(AcpiPmTest, AnAlarmThatIsNotEnabledDoesNotWakeButThePowerButtonDoes) {
  pm.sleep();
  pm.rtc_alarm();
  EXPECT_EQ(wakes, 0);
  pm.power_button();
  EXPECT_EQ(wakes, 1);
}

TEST_F(AcpiPmTest, AnEventThatCameBeforeTheSleepWakesAtOnce) {
  out<uint16_t>(2, kRtc);
  pm.rtc_alarm();
  EXPECT_EQ(wakes, 0);
  pm.sleep();
  EXPECT_EQ(wakes, 1);
  pm.reset(ResetKind::kCold);
  EXPECT_EQ(in<uint16_t>(0), 0);
}

// Intel ICH9 data sheet, SMI_EN and SMI_STS.
TEST_F(AcpiPmTest, WithoutSystemManagementModeItLooksSetUp) {
  EXPECT_EQ(in<uint32_t>(0x30), 1u << 5);
  out<uint32_t>(0x30, 1);
  EXPECT_EQ(in<uint32_t>(0x30), 1u << 5);
  EXPECT_FALSE(pm.apm_command());
}

TEST_F(AcpiPmTest, ACommandInterruptsWhereBothBitsAreSet) {
  AcpiPm with{{sci, clock, clock, [] {}}, true};
  auto read = [&](uint64_t offset) {
    uint32_t value;
    with.read({offset}, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  };
  auto write = [&](uint64_t offset, uint32_t value) { with.write({offset}, std::as_bytes(std::span(&value, 1))); };
  EXPECT_EQ(read(0x30), 0u);
  EXPECT_FALSE(with.apm_command());
  EXPECT_EQ(read(0x34), 0u);
  write(0x30, 1 << 5);
  EXPECT_FALSE(with.apm_command());
  EXPECT_EQ(read(0x34), 1u << 5);
  write(0x30, 1 << 5 | 1);
  EXPECT_TRUE(with.apm_command());
  write(0x34, 1 << 5);
  EXPECT_EQ(read(0x34), 0u);
  with.lock_smi(true);
  write(0x30, 1 << 5);
  EXPECT_EQ(read(0x30), 1u << 5 | 1u);
  write(0x30, 0);
  EXPECT_EQ(read(0x30), 1u);
  with.reset(ResetKind::kCold);
  EXPECT_EQ(read(0x30), 0u);
}

TEST(AcpiPmWithoutSuspend, LeavesTheProcessorsRunning) {
  FakeClock clock;
  Line sci;
  int offs = 0;
  AcpiPm pm{{sci, clock, clock, [&] { offs++; }}};
  const uint16_t value = 1 << 13 | AcpiPm::kSuspendToRam << 10;
  pm.write({4}, std::as_bytes(std::span(&value, 1)));
  EXPECT_EQ(offs, 0);
}

}  // namespace
}  // namespace vireo
