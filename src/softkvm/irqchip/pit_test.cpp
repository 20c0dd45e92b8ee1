// SPDX-License-Identifier: Apache-2.0
// Expected values: Intel 8254 datasheet; the input clock is 1193182 Hz.
#include "softkvm/irqchip/pit.h"

#include <gtest/gtest.h>

#include "softkvm/irqchip/irqchip_fake.h"

namespace vireo::softkvm {
namespace {

// The first nanosecond at which `ticks` of the input clock have passed.
constexpr uint64_t ns(uint64_t ticks) { return (ticks * 1'000'000'000 + Pit::kFrequency - 1) / Pit::kFrequency; }

struct PitVm : FakeVm {
  PitVm() { chip->create_pit(KVM_PIT_SPEAKER_DUMMY); }
  void load(unsigned channel, uint8_t mode, uint16_t count) {
    out(0x43, static_cast<uint8_t>(channel << 6 | 0x30 | mode << 1));
    out(static_cast<uint16_t>(0x40 + channel), static_cast<uint8_t>(count));
    out(static_cast<uint16_t>(0x40 + channel), static_cast<uint8_t>(count >> 8));
  }
  uint16_t count(unsigned channel) {
    out(0x43, static_cast<uint8_t>(channel << 6));
    const uint8_t low = in(static_cast<uint16_t>(0x40 + channel));
    return static_cast<uint16_t>(low | in(static_cast<uint16_t>(0x40 + channel)) << 8);
  }
  void gate(bool on) { out(0x61, on); }
  bool out2() { return in(0x61) >> 5 & 1; }
};

TEST(Pit, ModeZeroCountsDownOnceAndRaisesOut) {
  PitVm vm;
  vm.gate(true);
  vm.load(2, 0, 1000);
  EXPECT_EQ(vm.count(2), 1000);
  EXPECT_FALSE(vm.out2());
  vm.advance(ns(400));
  EXPECT_EQ(vm.count(2), 600);
  vm.advance(ns(1000) - ns(400));
  EXPECT_TRUE(vm.out2());
  vm.advance(ns(1010) - ns(1000));
  EXPECT_EQ(vm.count(2), 0xfff6);  // goes on below zero
}

TEST(Pit, ModeTwoReloads) {
  PitVm vm;
  vm.gate(true);
  vm.load(2, 2, 1000);
  vm.advance(ns(2300));
  EXPECT_EQ(vm.count(2), 700);
}

TEST(Pit, ModeThreeCountsByTwosAndIsASquareWave) {
  PitVm vm;
  vm.gate(true);
  vm.load(2, 3, 1000);
  vm.advance(ns(100));
  EXPECT_EQ(vm.count(2), 800);
  EXPECT_TRUE(vm.out2());
  vm.advance(ns(600) - ns(100));
  EXPECT_EQ(vm.count(2), 800);
  EXPECT_FALSE(vm.out2());
}

TEST(Pit, ModeOneStartsAtTheGate) {
  PitVm vm;
  vm.load(2, 1, 1000);
  vm.advance(ns(5000));
  vm.gate(true);
  EXPECT_EQ(vm.count(2), 1000);
  vm.advance(ns(10));
  EXPECT_EQ(vm.count(2), 990);
}

// 8254 datasheet, gate pin operations: low disables counting in modes 0, 2, 3 and 4; rising it goes on in 0 and 4, reloads in 2 and 3.
TEST(Pit, WithoutItsGateACounterStands) {
  PitVm vm;
  vm.load(2, 0, 1000);
  vm.advance(ns(5000));
  EXPECT_EQ(vm.count(2), 1000);
  EXPECT_FALSE(vm.out2());
  vm.gate(true);
  vm.advance(ns(400));
  EXPECT_EQ(vm.count(2), 600);
  vm.gate(false);
  vm.advance(ns(5000));
  EXPECT_EQ(vm.count(2), 600);
  EXPECT_FALSE(vm.out2());
  vm.gate(true);
  vm.advance(ns(601));
  EXPECT_TRUE(vm.out2());

  vm.load(2, 3, 1000);
  vm.advance(ns(600));
  EXPECT_FALSE(vm.out2());
  vm.gate(false);
  EXPECT_TRUE(vm.out2()) << "at once";
  const uint16_t stood = vm.count(2);
  vm.advance(ns(123));
  EXPECT_EQ(vm.count(2), stood);
  vm.gate(true);
  EXPECT_EQ(vm.count(2), 1000);
}

TEST(Pit, CountOfZeroIs65536) {
  PitVm vm;
  vm.gate(true);
  vm.load(2, 2, 0);
  EXPECT_EQ(vm.count(2), 0);
  vm.advance(ns(1));
  EXPECT_EQ(vm.count(2), 0xffff);
}

TEST(Pit, ByteAccessModes) {
  PitVm vm;
  vm.out(0x43, 2 << 6 | 1 << 4 | 2 << 1);  // low byte only
  vm.out(0x42, 200);
  EXPECT_EQ(vm.in(0x42), 200);
  EXPECT_EQ(vm.in(0x42), 200);
  vm.out(0x43, 2 << 6 | 2 << 4 | 2 << 1);  // high byte only
  vm.out(0x42, 3);
  EXPECT_EQ(vm.in(0x42), 3);
}

TEST(Pit, LatchHoldsTheCountUntilRead) {
  PitVm vm;
  vm.load(2, 2, 1000);
  vm.out(0x43, 2 << 6);
  vm.advance(ns(10));
  vm.out(0x43, 2 << 6);  // ignored: latched already
  const uint8_t low = vm.in(0x42);
  EXPECT_EQ(low | vm.in(0x42) << 8, 1000);
}

TEST(Pit, ReadBackGivesStatusThenCount) {
  PitVm vm;
  vm.load(2, 3, 1000);
  vm.out(0x43, 0xc0 | 2 << 2);  // both of channel 2
  EXPECT_EQ(vm.in(0x42), 0x80 | 0x30 | 3 << 1);
  const uint8_t low = vm.in(0x42);
  EXPECT_EQ(low | vm.in(0x42) << 8, 1000);
}

TEST(Pit, ControlPortReadsZeroAndSpeakerBitsRead) {
  PitVm vm;
  EXPECT_EQ(vm.in(0x43), 0);
  vm.out(0x61, 3);
  EXPECT_EQ(vm.in(0x61) & 3, 3);
  vm.clock.now = 0;
  EXPECT_EQ(vm.in(0x61) & 0x10, 0);
  vm.clock.now = 1 << 14;
  EXPECT_EQ(vm.in(0x61) & 0x10, 0x10);
}

TEST(Pit, SpeakerPortOnlyWhenAsked) {
  FakeVm vm;
  vm.chip->create_pit(0);
  uint32_t value;
  EXPECT_FALSE(vm.chip->pio(0x61, 1, false, value));
  EXPECT_TRUE(vm.chip->pio(0x40, 1, false, value));
}

TEST(PitIrq, PeriodicTicksArriveAtThePicAndIoapic) {
  PitVm vm;
  vm.pic_init();
  vm.redirect(0, 0x40);
  vm.load(0, 2, 1193);
  vm.advance(1'000'000);
  EXPECT_TRUE(vm.requested(0, 0x40));
  EXPECT_EQ(vm.lapic().acknowledge(), 8);
}

TEST(PitIrq, OneShotTicksOnce) {
  PitVm vm;
  vm.chip->reinject_control({});
  vm.pic_init();
  vm.load(0, 0, 1193);
  vm.advance(1'000'000);
  EXPECT_EQ(vm.lapic().acknowledge(), 8);
  vm.out(0x20, 0x20);
  vm.advance(100'000'000);
  EXPECT_FALSE(vm.lapic().has_interrupt());
}

TEST(PitIrq, LostTicksAreMadeUpFor) {
  PitVm vm;
  vm.pic_init();
  vm.load(0, 2, 1193);
  vm.advance(3'000'000);  // three periods
  int ticks = 0;
  while (vm.lapic().acknowledge() == 8) {
    ++ticks;
    vm.out(0x20, 0x20);
    ASSERT_LE(ticks, 3);
  }
  EXPECT_EQ(ticks, 3);
}

TEST(PitIrq, WithoutReinjectionLostTicksAreLost) {
  PitVm vm;
  kvm_reinject_control control{};
  EXPECT_EQ(vm.chip->reinject_control(control), 0);
  vm.pic_init();
  vm.load(0, 2, 1193);
  vm.advance(3'000'000);
  EXPECT_EQ(vm.lapic().acknowledge(), 8);
  vm.out(0x20, 0x20);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  vm.advance(1'000'000);
  EXPECT_EQ(vm.lapic().acknowledge(), 8);
}

TEST(PitIrq, LegacyHpetTakesChannelZero) {
  PitVm vm;
  vm.pic_init();
  vm.load(0, 2, 1193);
  kvm_pit_state2 state;
  vm.chip->get_pit2(state);
  state.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
  EXPECT_EQ(vm.chip->set_pit2(state), 0);
  vm.advance(5'000'000);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  state.flags = 0;
  vm.chip->set_pit2(state);
  vm.advance(1'000'000);
  EXPECT_TRUE(vm.lapic().has_interrupt());
}

TEST(PitState, FreshAndSaveLoadSave) {
  PitVm vm, other;
  kvm_pit_state2 saved, again;
  vm.chip->get_pit2(saved);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(saved.channels[i].count, 65536u);
    EXPECT_EQ(saved.channels[i].mode, 0xff);
    EXPECT_EQ(saved.channels[i].gate, i != 2);
  }
  vm.load(0, 2, 1193);
  vm.load(2, 3, 500);
  vm.out(0x43, 0xc0 | 2 << 2);
  vm.out(0x61, 3);
  vm.chip->get_pit2(saved);
  EXPECT_EQ(saved.flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON);
  EXPECT_EQ(other.chip->set_pit2(saved), 0);
  other.chip->get_pit2(again);
  EXPECT_EQ(memcmp(&saved, &again, sizeof saved), 0);  // clocks of both stand at one time
}

TEST(Pit, CreationErrors) {
  FakeVm vm, split(1, {.split = true});
  kvm_pit_state2 state{};
  EXPECT_EQ(vm.chip->get_pit2(state), -ENXIO);
  EXPECT_EQ(vm.chip->reinject_control({}), -ENXIO);
  EXPECT_EQ(vm.chip->create_pit(0), 0);
  EXPECT_EQ(vm.chip->create_pit(0), -EEXIST);
  EXPECT_EQ(split.chip->create_pit(0), -ENOENT);
}

}  // namespace
}  // namespace vireo::softkvm
