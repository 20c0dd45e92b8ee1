// SPDX-License-Identifier: Apache-2.0
// Expected values: Intel 8259A datasheet.
#include "softkvm/irqchip/pic.h"

#include <gtest/gtest.h>

#include "softkvm/irqchip/irqchip_fake.h"

namespace vireo::softkvm {
namespace {

void pulse(FakeVm& vm, uint32_t gsi) {
  vm.chip->set_irq(gsi, true);
  vm.chip->set_irq(gsi, false);
}

uint8_t isr(FakeVm& vm, uint16_t port = 0x20) {
  vm.out(port, 0x0b);
  return vm.in(port);
}

TEST(Pic, FixedPriorityAndNesting) {
  FakeVm vm;
  vm.pic_init();
  pulse(vm, 5);
  pulse(vm, 3);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 3);
  EXPECT_EQ(isr(vm), 1 << 3);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  pulse(vm, 1);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 1);
  vm.out(0x20, 0x20);
  EXPECT_EQ(isr(vm), 1 << 3);
  vm.out(0x20, 0x20);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 5);
}

TEST(Pic, SlaveComesThroughInputTwo) {
  FakeVm vm;
  vm.pic_init();
  pulse(vm, 12);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x70 + 4);
  EXPECT_EQ(isr(vm), 1 << 2);
  EXPECT_EQ(isr(vm, 0xa0), 1 << 4);
  vm.out(0xa0, 0x20);
  vm.out(0x20, 0x20);
  EXPECT_EQ(isr(vm) | isr(vm, 0xa0), 0);
}

TEST(Pic, MaskHoldsBack) {
  FakeVm vm;
  vm.pic_init();
  vm.out(0x21, 0x08);
  EXPECT_EQ(vm.in(0x21), 0x08);
  pulse(vm, 3);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  vm.out(0x20, 0x0a);
  EXPECT_EQ(vm.in(0x20), 0x08);
  vm.out(0x21, 0);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 3);
}

TEST(Pic, RequestThatWentAwayIsSpurious) {
  FakeVm vm;
  vm.pic_init();
  vm.out(0x4d0, 0x08);
  vm.chip->set_irq(3, true);
  vm.chip->set_irq(3, false);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  EXPECT_EQ(vm.chip->bus().pic->acknowledge(), 8 + 7);
  EXPECT_EQ(isr(vm), 0);
}

TEST(Pic, LevelRepeatsWhileTheLineIsHigh) {
  FakeVm vm;
  vm.pic_init();
  vm.out(0x4d0, 0xff);
  vm.out(0x4d1, 0xff);
  EXPECT_EQ(vm.in(0x4d0), 0xf8);  // 0, 1 and 2 stay edge
  EXPECT_EQ(vm.in(0x4d1), 0xde);  // 8 and 13
  vm.chip->set_irq(5, true);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 5);
  vm.out(0x20, 0x20);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 5);
  vm.chip->set_irq(5, false);
  vm.out(0x20, 0x20);
  EXPECT_FALSE(vm.lapic().has_interrupt());
}

TEST(Pic, SpecificEoiAndRotation) {
  FakeVm vm;
  vm.pic_init();
  for (uint32_t gsi : {3, 4}) pulse(vm, gsi);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 3);
  vm.out(0x20, 0xe3);  // rotate on specific EOI 3: 4 is highest now
  EXPECT_EQ(isr(vm), 0);
  pulse(vm, 3);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 4);
  vm.out(0x20, 0x64);
  vm.out(0x20, 0xc7);  // set priority: 7 lowest, the reset order
  pulse(vm, 1);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 1);
}

TEST(Pic, RotateOnNonSpecificEoi) {
  FakeVm vm;
  vm.pic_init();
  pulse(vm, 0);
  EXPECT_EQ(vm.lapic().acknowledge(), 8);
  vm.out(0x20, 0xa0);
  pulse(vm, 0);
  pulse(vm, 1);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 1);
}

TEST(Pic, AutoEoiLeavesNothingInService) {
  FakeVm vm;
  vm.pic_init(3);
  pulse(vm, 3);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 3);
  EXPECT_EQ(isr(vm), 0);
}

TEST(Pic, SpecialMaskLetsLowerOnesThrough) {
  FakeVm vm;
  vm.pic_init();
  pulse(vm, 1);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 1);
  pulse(vm, 6);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  vm.out(0x21, 1 << 1);
  vm.out(0x20, 0x68);
  EXPECT_EQ(vm.lapic().acknowledge(), 8 + 6);
}

TEST(Pic, PollAcknowledges) {
  FakeVm vm;
  vm.pic_init();
  pulse(vm, 4);
  vm.out(0x20, 0x0c);
  EXPECT_EQ(vm.in(0x20), 0x84);
  EXPECT_EQ(isr(vm), 1 << 4);
  vm.out(0x20, 0x0c);
  EXPECT_EQ(vm.in(0x20) & 0x80, 0);
}

TEST(Pic, OnlyWhoseLint0IsExtIntTakesIt) {
  FakeVm vm(2);
  vm.pic_init();
  const int kicks = vm.vcpu(0).kicks;
  pulse(vm, 3);
  EXPECT_EQ(vm.vcpu(0).kicks, kicks + 1);
  EXPECT_TRUE(vm.lapic(0).has_interrupt());
  EXPECT_FALSE(vm.lapic(1).has_interrupt());
  vm.lapic(0).mmio_write(apic::kLvt0, 4, 0x10700);
  EXPECT_FALSE(vm.lapic(0).has_interrupt());
  vm.lapic(1).set_base(0xfee00000, false);  // no APIC: the wire goes to the CPU
  EXPECT_TRUE(vm.lapic(1).has_interrupt());
}

TEST(Pic, WideAccessesReadAsZero) {
  FakeVm vm;
  vm.out(0x21, 0x5a);
  uint32_t value = 0x1234;
  EXPECT_TRUE(vm.chip->pio(0x21, 2, false, value));
  EXPECT_EQ(value, 0u);
  EXPECT_FALSE(vm.chip->pio(0x22, 1, false, value));
  EXPECT_FALSE(vm.chip->pio(0x4d2, 1, false, value));
}

TEST(PicState, SaveLoadSaveIsIdentical) {
  FakeVm vm, other;
  vm.pic_init();
  vm.out(0x4d0, 0x20);
  pulse(vm, 3);
  vm.lapic().acknowledge();
  pulse(vm, 12);
  vm.chip->set_irq(5, true);
  for (uint32_t id : {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE}) {
    kvm_irqchip saved{}, again{};
    saved.chip_id = again.chip_id = id;
    EXPECT_EQ(vm.chip->get_irqchip(saved), 0);
    EXPECT_EQ(other.chip->set_irqchip(saved), 0);
    EXPECT_EQ(other.chip->get_irqchip(again), 0);
    EXPECT_EQ(memcmp(&saved, &again, sizeof saved), 0);
  }
  other.out(0x20, 0x20);
  other.lapic().mmio_write(apic::kLvt0, 4, 0x700);
  EXPECT_EQ(other.lapic().acknowledge(), 0x74);
}

}  // namespace
}  // namespace vireo::softkvm
