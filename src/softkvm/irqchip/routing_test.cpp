// SPDX-License-Identifier: Apache-2.0
// Expected values: Intel SDM vol 3, 11.11; api.rst 4.52, 4.70.
#include "softkvm/irqchip/routing.h"

#include <gtest/gtest.h>

#include "softkvm/irqchip/irqchip_fake.h"

namespace vireo::softkvm {
namespace {

kvm_irq_routing_entry to_pin(uint32_t gsi, uint32_t chip, uint32_t pin) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_IRQCHIP;
  entry.u.irqchip = {chip, pin};
  return entry;
}

kvm_irq_routing_entry to_msi(uint32_t gsi, uint32_t address, uint32_t data, uint32_t high = 0) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = address;
  entry.u.msi.address_hi = high;
  entry.u.msi.data = data;
  return entry;
}

int set(FakeVm& vm, std::vector<kvm_irq_routing_entry> entries, uint32_t flags = 0) {
  return vm.chip->set_gsi_routing({static_cast<uint32_t>(entries.size()), flags}, entries.data());
}

kvm_msi msi(uint32_t address, uint32_t data, uint32_t high = 0) {
  kvm_msi message{};
  message.address_lo = address;
  message.address_hi = high;
  message.data = data;
  return message;
}

TEST(Msi, FieldsOfAddressAndData) {
  ApicMessage message = decode_msi(0xfee5a00c, 0, 0xc1ab, false);
  EXPECT_EQ(message.destination, 0x5au);
  EXPECT_TRUE(message.redirection_hint);
  EXPECT_TRUE(message.logical);
  EXPECT_EQ(message.vector, 0xab);
  EXPECT_EQ(message.mode, DeliveryMode::kLowestPriority);
  EXPECT_TRUE(message.level_triggered);
  message = decode_msi(0xfee5a000, 0x12345600, 0x41, true);
  EXPECT_EQ(message.destination, 0x1234565au);
  EXPECT_EQ(decode_msi(0xfee5a000, 0x12345600, 0x41, false).destination, 0x5au);
}

TEST(Msi, SignalReportsDelivery) {
  FakeVm vm(2);
  EXPECT_EQ(vm.chip->signal_msi(msi(0xfee01000, 0x41)), 1);
  EXPECT_TRUE(vm.requested(1, 0x41));
  EXPECT_EQ(vm.chip->signal_msi(msi(0xfee07000, 0x41)), 0);
  EXPECT_EQ(vm.chip->signal_msi(msi(0xfeeff000, 0x42)), 2);
  kvm_msi flagged = msi(0xfee01000, 0x41);
  flagged.flags = 2;
  EXPECT_EQ(vm.chip->signal_msi(flagged), -EINVAL);
}

TEST(Msi, RedirectionHintReachesOne) {
  FakeVm vm(2);
  for (unsigned id = 0; id < 2; ++id) vm.lapic(id).mmio_write(apic::kLdr, 4, 1u << (24 + id));
  EXPECT_EQ(vm.chip->signal_msi(msi(0xfee0300c, 0x41)), 1);
  EXPECT_EQ(vm.requested(0, 0x41) + vm.requested(1, 0x41), 1);
}

TEST(Msi, ExtendedDestination) {
  FakeVm vm(300);
  vm.x2apic(290);
  EXPECT_EQ(vm.chip->enable_x2apic_api(4), -EINVAL);
  EXPECT_EQ(vm.chip->enable_x2apic_api(KVM_X2APIC_API_USE_32BIT_IDS), 0);
  EXPECT_EQ(vm.chip->signal_msi(msi(0xfee22000, 0x41, 0x100)), 1);
  EXPECT_TRUE(vm.requested(290, 0x41));
  EXPECT_EQ(vm.chip->signal_msi(msi(0xfee22000, 0x41, 0x101)), -EINVAL);
}

TEST(Msi, BroadcastQuirkAppliesToX2apic) {
  FakeVm vm(2);
  vm.x2apic(0);
  vm.x2apic(1);
  EXPECT_EQ(vm.chip->signal_msi(msi(0xfeeff000, 0x41)), 2);
  vm.chip->enable_x2apic_api(KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
  EXPECT_EQ(vm.chip->signal_msi(msi(0xfeeff000, 0x42)), 0);
}

TEST(Routing, DefaultGoesToPicAndIoapic) {
  FakeVm vm;
  EXPECT_EQ(vm.chip->set_irq(4, true), 1);   // PIC takes it, the IOAPIC's pin is masked
  EXPECT_EQ(vm.chip->set_irq(4, false), 2);
  EXPECT_EQ(vm.chip->set_irq(20, true), -1);
  EXPECT_EQ(vm.chip->set_irq(20, false), 1);
  EXPECT_EQ(vm.chip->set_irq(24, true), -1);
  EXPECT_EQ(vm.chip->set_irq(0xffffffff, true), -1);
}

TEST(Routing, ReplacesTheTable) {
  FakeVm vm;
  vm.redirect(2, 0x40);
  EXPECT_EQ(set(vm, {to_pin(0, KVM_IRQCHIP_IOAPIC, 2), to_pin(0, KVM_IRQCHIP_PIC_MASTER, 0), to_msi(30, 0xfee00000, 0x51)}),
            0);
  vm.chip->set_irq(0, true);
  EXPECT_TRUE(vm.requested(0, 0x40));
  EXPECT_EQ(vm.chip->set_irq(30, true), 1);
  EXPECT_TRUE(vm.requested(0, 0x51));
  EXPECT_EQ(vm.chip->set_irq(30, false), -1);
  EXPECT_EQ(vm.chip->set_irq(20, true), -1);
}

TEST(Routing, RejectsWhatTheKernelRejects) {
  FakeVm vm;
  EXPECT_EQ(set(vm, {}, 1), -EINVAL);
  EXPECT_EQ(set(vm, {to_pin(5, KVM_IRQCHIP_PIC_MASTER, 8)}), -EINVAL);
  EXPECT_EQ(set(vm, {to_pin(5, KVM_IRQCHIP_IOAPIC, 24)}), -EINVAL);
  EXPECT_EQ(set(vm, {to_pin(5, 3, 0)}), -EINVAL);
  EXPECT_EQ(set(vm, {to_pin(4096, KVM_IRQCHIP_IOAPIC, 0)}), -EINVAL);
  EXPECT_EQ(set(vm, {to_pin(4095, KVM_IRQCHIP_IOAPIC, 0)}), 0);
  EXPECT_EQ(set(vm, {to_pin(5, KVM_IRQCHIP_IOAPIC, 3), to_pin(5, KVM_IRQCHIP_IOAPIC, 4)}), -EINVAL);
  EXPECT_EQ(set(vm, {to_pin(5, KVM_IRQCHIP_IOAPIC, 3), to_msi(5, 0xfee00000, 0)}), -EINVAL);
  EXPECT_EQ(set(vm, {to_msi(5, 0xfee00000, 0), to_msi(5, 0xfee00000, 0)}), -EINVAL);
  kvm_irq_routing_entry flagged = to_msi(5, 0xfee00000, 0);
  flagged.flags = KVM_MSI_VALID_DEVID;
  EXPECT_EQ(set(vm, {flagged}), 0);
  flagged.flags = 2;
  EXPECT_EQ(set(vm, {flagged}), -EINVAL);
  kvm_irq_routing_entry unknown{};
  unknown.type = 7;
  EXPECT_EQ(set(vm, {unknown}), -EINVAL);
  EXPECT_EQ(set(vm, {}), 0);
}

TEST(SplitIrqchip, HasLocalApicsAndMsisOnly) {
  FakeVm vm(1, {.split = true, .reserved_pins = 24});
  kvm_irqchip chip{};
  EXPECT_EQ(vm.chip->get_irqchip(chip), -ENXIO);
  EXPECT_EQ(set(vm, {to_pin(5, KVM_IRQCHIP_IOAPIC, 3)}), -EINVAL);
  EXPECT_EQ(set(vm, {to_msi(5, 0xfee00000, 0x8051), to_msi(6, 0xfee00000, 0x52), to_msi(30, 0xfee00000, 0x8053)}), 0);
  for (uint32_t gsi : {5, 6, 30}) EXPECT_EQ(vm.chip->set_irq(gsi, true), 1);
  for (int i = 0; i < 3; ++i) {
    vm.lapic().acknowledge();
    vm.lapic().eoi();
  }
  EXPECT_EQ(vm.vcpu().eois, std::vector<uint8_t>{0x51});  // level, and of a reserved pin
}

TEST(SplitIrqchip, TakesTheUsersVectorAsExtInt) {
  FakeVm vm(1, {.split = true});
  vm.lapic().mmio_write(apic::kLvt0, 4, 0x700);
  vm.lapic().set_external_vector(0x33);
  EXPECT_TRUE(vm.lapic().has_interrupt());
  EXPECT_EQ(vm.lapic().acknowledge(), 0x33);
  EXPECT_TRUE(vm.lapic().external_vector_free());
}

}  // namespace
}  // namespace vireo::softkvm
