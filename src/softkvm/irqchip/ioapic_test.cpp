// SPDX-License-Identifier: Apache-2.0
// Expected values: Intel 82093AA datasheet; the version and the saved form as the kernel has them.
#include "softkvm/irqchip/ioapic.h"

#include <gtest/gtest.h>

#include "softkvm/irqchip/irqchip_fake.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kLevel = 1 << 15, kMasked = 1 << 16, kRemoteIrr = 1 << 14;

TEST(Ioapic, RegistersAfterReset) {
  FakeVm vm;
  EXPECT_EQ(vm.ioapic_read(1), 0x00170011u);
  EXPECT_EQ(vm.ioapic_read(0), 0u);
  for (unsigned pin = 0; pin < 24; ++pin) {
    EXPECT_EQ(vm.ioapic_read(static_cast<uint8_t>(0x10 + pin * 2)), 0x10000u);
    EXPECT_EQ(vm.ioapic_read(static_cast<uint8_t>(0x11 + pin * 2)), 0u);
  }
  vm.ioapic_write(0, 0xff000000);
  EXPECT_EQ(vm.ioapic_read(0), 0x0f000000u);
  EXPECT_EQ(vm.ioapic_read(2), 0x0f000000u);
}

TEST(Ioapic, ReadOnlyBitsStay) {
  FakeVm vm;
  vm.redirect(20, kMasked | kLevel | kRemoteIrr | 1 << 12 | 0x40);
  EXPECT_EQ(vm.ioapic_read(0x10 + 40), kMasked | kLevel | 0x40u);
}

TEST(Ioapic, EdgeDeliversOncePerEdge) {
  FakeVm vm;
  vm.redirect(20, 0x40);
  EXPECT_EQ(vm.chip->set_irq(20, true), 1);
  EXPECT_EQ(vm.chip->set_irq(20, true), 0);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x40);
  vm.lapic().eoi();
  EXPECT_FALSE(vm.lapic().has_interrupt());
  vm.chip->set_irq(20, false);
  EXPECT_EQ(vm.chip->set_irq(20, true), 1);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x40);
}

TEST(Ioapic, MaskedEdgeIsNotDelivered) {
  FakeVm vm;
  vm.redirect(20, kMasked | 0x40);
  EXPECT_EQ(vm.chip->set_irq(20, true), -1);
  EXPECT_FALSE(vm.lapic().has_interrupt());
}

TEST(Ioapic, LevelRepeatsUntilTheLineFalls) {
  FakeVm vm;
  vm.redirect(20, kLevel | 0x40);
  EXPECT_EQ(vm.chip->set_irq(20, true), 1);
  EXPECT_EQ(vm.ioapic_read(0x10 + 40), kLevel | kRemoteIrr | 0x40u);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x40);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  vm.lapic().eoi();
  EXPECT_EQ(vm.lapic().acknowledge(), 0x40);
  vm.chip->set_irq(20, false);
  vm.lapic().eoi();
  EXPECT_FALSE(vm.lapic().has_interrupt());
  EXPECT_EQ(vm.ioapic_read(0x10 + 40), kLevel | 0x40u);
}

TEST(Ioapic, LevelWaitsForUnmask) {
  FakeVm vm;
  vm.redirect(20, kMasked | kLevel | 0x40);
  vm.chip->set_irq(20, true);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  vm.redirect(20, kLevel | 0x40);
  EXPECT_TRUE(vm.lapic().has_interrupt());
}

TEST(Ioapic, SwitchingToEdgeClearsRemoteIrr) {
  FakeVm vm;
  vm.redirect(20, kLevel | 0x40);
  vm.chip->set_irq(20, true);
  vm.redirect(20, kMasked | 0x40);
  EXPECT_EQ(vm.ioapic_read(0x10 + 40), kMasked | 0x40u);
}

TEST(Ioapic, PinIsHighWhileAnySourceHoldsIt) {
  FakeVm vm;
  vm.redirect(20, kLevel | 0x40);
  vm.chip->router().set_irq(IrqSource::kUser, 20, true);
  vm.chip->router().set_irq(IrqSource::kResample, 20, true);
  vm.chip->router().set_irq(IrqSource::kUser, 20, false);
  vm.lapic().acknowledge();
  vm.lapic().eoi();
  EXPECT_TRUE(vm.lapic().has_interrupt());
}

TEST(Ioapic, LogicalDestinationAndLowestPriority) {
  FakeVm vm(3);
  for (unsigned id = 0; id < 3; ++id) vm.lapic(id).mmio_write(apic::kLdr, 4, 1u << (24 + id));
  vm.redirect(20, 6ull << 56 | 1 << 11 | 0x40);
  vm.chip->set_irq(20, true);
  EXPECT_TRUE(!vm.requested(0, 0x40) && vm.requested(1, 0x40) && vm.requested(2, 0x40));
  vm.redirect(21, 6ull << 56 | 1 << 11 | 0x100 | 0x50);
  vm.chip->set_irq(21, true);
  EXPECT_EQ(vm.requested(1, 0x50) + vm.requested(2, 0x50), 1);
}

TEST(Ioapic, NmiAndSmiModes) {
  FakeVm vm;
  vm.redirect(20, 0x400);
  vm.redirect(21, 0x200);
  vm.chip->set_irq(20, true);
  vm.chip->set_irq(21, true);
  EXPECT_EQ(vm.vcpu().nmis, 1);
  EXPECT_EQ(vm.vcpu().smis, 1);
}

TEST(Ioapic, RtcSaysWhetherTheLastTickWasTaken) {
  FakeVm vm;
  kvm_irq_routing_entry entry{};
  entry.gsi = 8;
  entry.type = KVM_IRQ_ROUTING_IRQCHIP;
  entry.u.irqchip = {KVM_IRQCHIP_IOAPIC, 8};
  EXPECT_EQ(vm.chip->set_gsi_routing({1, 0}, &entry), 0);
  vm.redirect(8, 0x40);
  EXPECT_EQ(vm.chip->set_irq(8, true), 1);
  vm.chip->set_irq(8, false);
  EXPECT_EQ(vm.chip->set_irq(8, true), 0);
  vm.chip->set_irq(8, false);
  vm.lapic().acknowledge();
  vm.lapic().eoi();
  EXPECT_EQ(vm.chip->set_irq(8, true), 1);
}

TEST(Ioapic, NothingBeyondThePins) {
  FakeVm vm;
  EXPECT_EQ(vm.ioapic_read(0x40), 0xffffffffu);
  vm.ioapic_write(0x40, 0);
  uint64_t value = 0;
  EXPECT_FALSE(vm.chip->mmio(0xfec00100, 4, false, value));
  EXPECT_TRUE(vm.chip->mmio(0xfec00040, 4, false, value));
  EXPECT_EQ(value, 0u);
}

TEST(IoapicState, SaveLoadSaveIsIdentical) {
  FakeVm vm, other;
  vm.redirect(20, kLevel | 0x40);
  vm.redirect(21, kMasked | kLevel | 0x41);
  vm.redirect(22, 0x42);
  for (uint32_t gsi : {20, 21, 22}) vm.chip->set_irq(gsi, true);
  kvm_irqchip saved{}, again{};
  saved.chip_id = again.chip_id = KVM_IRQCHIP_IOAPIC;
  EXPECT_EQ(vm.chip->get_irqchip(saved), 0);
  EXPECT_EQ(saved.chip.ioapic.irr, 1u << 20 | 1u << 21);  // the edge has gone out
  EXPECT_EQ(other.chip->set_irqchip(saved), 0);
  EXPECT_EQ(other.chip->get_irqchip(again), 0);
  EXPECT_EQ(memcmp(&saved, &again, sizeof saved), 0);
}

}  // namespace
}  // namespace vireo::softkvm
