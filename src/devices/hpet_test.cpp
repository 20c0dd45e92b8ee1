// SPDX-License-Identifier: Apache-2.0
#include "devices/hpet.h"

#include <gtest/gtest.h>

#include "base/fake_clock.h"

namespace vireo {
namespace {

struct Line final : IrqLine {
  void set(bool l) override {
    edges += l && !level;
    level = l;
  }
  bool level = false;
  unsigned edges = 0;
};

struct Msi final : MsiSink {
  void send(uint64_t a, uint32_t d) override {
    address = a, data = d;
    count++;
  }
  uint64_t address = 0;
  uint32_t data = 0;
  unsigned count = 0;
};

// Bits of a timer's configuration, by the specification's names.
constexpr uint64_t kIntType = 2, kIntEnb = 4, kType = 8, kValSet = 0x40, k32Mode = 0x100, kFsbEn = 0x4000;

class HpetTest : public testing::Test {
 protected:
  uint64_t get(uint64_t at) {
    uint64_t value = 0;
    hpet.read({at}, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  uint32_t get32(uint64_t at) {
    uint32_t value = 0;
    hpet.read({at}, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void put(uint64_t at, uint64_t value) { hpet.write({at}, std::as_bytes(std::span(&value, 1))); }
  void put32(uint64_t at, uint32_t value) { hpet.write({at}, std::as_bytes(std::span(&value, 1))); }
  void ticks(uint64_t n) { clock.advance(n * Hpet::kTickNs); }

  FakeClock clock{5'000'000'000};
  std::array<Line, Hpet::kPins> lines;
  std::array<Line, 2> legacy;
  Msi msi;
  int replaced = -1;
  Hpet hpet{{{&lines[0], &lines[1], &lines[2], &lines[3]}, {&legacy[0], &legacy[1]}, msi, clock, clock, [this](bool r) { replaced = r; }}};
};

// 2.3.4: revision, three timers, 64 bits, legacy replacement, Intel; a tick in femtoseconds, at most 0x05f5e100.
TEST_F(HpetTest, Capabilities) {
  EXPECT_EQ(get(0x000), 0x00989680'8086a201u);
  EXPECT_EQ(get32(0x004), 10'000'000u);
  put(0x000, 0);
  EXPECT_EQ(get32(0x000), 0x8086a201u);
  // 2.3.8: periodic, 64 bits, messages; pins 20 to 23.
  EXPECT_EQ(get(0x100), 0x00f00000'00008030u);
  EXPECT_EQ(get(0x108), ~0ull);
}

TEST_F(HpetTest, TheCounterRunsWhileEnabled) {
  ticks(100);
  EXPECT_EQ(get(0x0f0), 0u);
  put(0x0f0, 0x1'0000'0005);
  put(0x010, 1);
  ticks(100);
  EXPECT_EQ(get(0x0f0), 0x1'0000'0069u);
  EXPECT_EQ(get32(0x0f4), 1u);
  put(0x010, 0);
  ticks(100);
  EXPECT_EQ(get(0x0f0), 0x1'0000'0069u);
}

TEST_F(HpetTest, OneShotByEdgeOnItsPin) {
  put(0x010, 1);
  put(0x100, kIntEnb | 21 << 9);
  put(0x108, 1000);
  ticks(999);
  EXPECT_EQ(lines[1].edges, 0u);
  ticks(1);
  EXPECT_EQ(lines[1].edges, 1u);
  EXPECT_FALSE(lines[1].level);
  EXPECT_EQ(get(0x020), 0u) << "an edge leaves no status";
  ticks(1'000'000);
  EXPECT_EQ(lines[1].edges, 1u);
}

TEST_F(HpetTest, LevelHoldsThePinUntilItsStatusIsCleared) {
  put(0x010, 1);
  put(0x120, kIntEnb | kIntType | 20 << 9);
  put(0x128, 10);
  ticks(20);
  EXPECT_TRUE(lines[0].level);
  EXPECT_EQ(get(0x020), 2u);
  put(0x020, 1);  // another's bit
  EXPECT_TRUE(lines[0].level);
  put(0x020, 2);
  EXPECT_FALSE(lines[0].level);
  EXPECT_EQ(get(0x020), 0u);
}

TEST_F(HpetTest, A32BitTimerComesAgainWhenItsHalfWraps) {
  put(0x010, 1);
  put(0x100, kIntEnb | k32Mode | 20 << 9);
  put32(0x108, 50);
  ticks(50);
  EXPECT_EQ(lines[0].edges, 1u);
  ticks(1ull << 32);
  EXPECT_EQ(lines[0].edges, 2u);
  // One that is past comes after the wrap.
  put32(0x108, get32(0x0f0) - 5);
  ticks(1000);
  EXPECT_EQ(lines[0].edges, 2u);
  ticks(1ull << 32);
  EXPECT_EQ(lines[0].edges, 3u);
}

// 2.3.9.2.2: "set value", the first comparator, then the period.
TEST_F(HpetTest, Periodic) {
  put(0x010, 1);
  ticks(777);
  put(0x100, kIntEnb | kType | kValSet | k32Mode | 20 << 9);
  put32(0x108, 777 + 100);
  EXPECT_EQ(get(0x100) & kValSet, 0u);
  put32(0x108, 30);
  ticks(99);
  EXPECT_EQ(lines[0].edges, 0u);
  ticks(1);
  EXPECT_EQ(lines[0].edges, 1u);
  EXPECT_EQ(get32(0x108), 777u + 130);
  ticks(90);
  EXPECT_EQ(lines[0].edges, 4u);
  put(0x100, kType | k32Mode | 20 << 9);  // no interrupts, but it goes on
  ticks(60);
  EXPECT_EQ(lines[0].edges, 4u);
  EXPECT_EQ(get32(0x108), 777u + 100 + 6 * 30);
}

// Intel Atom C2000 data sheet, 28.4.1: "set value", the lower half, "set value", the upper half.
TEST_F(HpetTest, SetValueIsForOneWriteAndItsHalf) {
  put(0x010, 1);
  for (uint64_t half : {0x108, 0x10c}) {
    put(0x100, kIntEnb | kType | kValSet | 20 << 9);
    put32(half, half == 0x108 ? 100 : 0);
    EXPECT_EQ(get(0x100) & kValSet, 0u);
  }
  put32(0x108, 30);
  EXPECT_EQ(get(0x108), 100u);
  ticks(100);
  EXPECT_EQ(lines[0].edges, 1u);
  EXPECT_EQ(get(0x108), 130u);
}

TEST_F(HpetTest, ACounterSetFarAheadCountsAndWraps) {
  put(0x0f0, ~0ull - 15);
  put(0x100, kIntEnb | 20 << 9);
  put(0x108, 5);
  put(0x010, 1);
  EXPECT_EQ(get(0x0f0), ~0ull - 15);
  ticks(20);
  EXPECT_EQ(get(0x0f0), 4u);
  EXPECT_EQ(lines[0].edges, 0u);
  ticks(1);
  EXPECT_EQ(lines[0].edges, 1u);
}

TEST_F(HpetTest, APeriodOfZeroIsNone) {
  put(0x010, 1);
  put(0x100, kIntEnb | kType | 20 << 9);
  put(0x108, 0);
  ticks(1'000'000);
  EXPECT_EQ(lines[0].edges, 0u);
}

TEST_F(HpetTest, LegacyReplacementLeadsTimers0And1ToIrqs0And8) {
  put(0x010, 3);
  EXPECT_EQ(replaced, 1);
  put(0x100, kIntEnb | 21 << 9);
  put(0x108, 10);
  put(0x120, kIntEnb);
  put(0x128, 20);
  put(0x140, kIntEnb | 23 << 9);
  put(0x148, 30);
  ticks(100);
  EXPECT_EQ(legacy[0].edges, 1u);
  EXPECT_EQ(legacy[1].edges, 1u);
  EXPECT_EQ(lines[1].edges, 0u);
  EXPECT_EQ(lines[3].edges, 1u) << "timer 2 has its pin";
  put(0x010, 1);
  EXPECT_EQ(replaced, 0);
  put(0x010, 3);
  hpet.reset(ResetKind::kCold);
  EXPECT_EQ(replaced, 0);
  EXPECT_EQ(get(0x010), 0u);
}

TEST_F(HpetTest, AsAMessage) {
  put(0x010, 1);
  put32(0x110, 0x4031);
  put32(0x114, 0xfee01000);
  put(0x100, kIntEnb | kFsbEn | 20 << 9);
  put(0x108, 10);
  ticks(10);
  EXPECT_EQ(msi.count, 1u);
  EXPECT_EQ(msi.address, 0xfee01000u);
  EXPECT_EQ(msi.data, 0x4031u);
  EXPECT_EQ(lines[0].edges, 0u);
}

TEST_F(HpetTest, TimersStandWhileItIsOff) {
  put(0x100, kIntEnb | 20 << 9);
  put(0x108, 10);
  put(0x010, 1);
  ticks(5);
  put(0x010, 0);
  ticks(1000);
  EXPECT_EQ(lines[0].edges, 0u);
  put(0x010, 1);
  ticks(5);
  EXPECT_EQ(lines[0].edges, 1u);
}

}  // namespace
}  // namespace vireo
