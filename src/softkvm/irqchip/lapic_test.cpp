// SPDX-License-Identifier: Apache-2.0
// Expected values: Intel SDM vol 3, chapter 11, and where the kernel's emulation decides, api.rst.
#include "softkvm/irqchip/lapic.h"

#include <gtest/gtest.h>

#include "softkvm/irqchip/irqchip_fake.h"

namespace vireo::softkvm {
namespace {

using namespace apic;

constexpr uint32_t kAssert = 1 << 14;

uint32_t read(FakeVm& vm, uint32_t offset, unsigned id = 0) {
  return static_cast<uint32_t>(vm.lapic(id).mmio_read(offset, 4));
}
void write(FakeVm& vm, uint32_t offset, uint32_t value, unsigned id = 0) { vm.lapic(id).mmio_write(offset, 4, value); }
void ipi(FakeVm& vm, uint32_t low, uint8_t destination = 0, unsigned from = 0) {
  write(vm, kIcr2, static_cast<uint32_t>(destination) << 24, from);
  write(vm, kIcr, low, from);
}
void fixed(FakeVm& vm, uint8_t vector, unsigned id = 0) {
  vm.lapic(id).accept(DeliveryMode::kFixed, vector, true, false);
}

TEST(LapicReset, GivesTheValuesOfTable11) {
  FakeVm vm(2);
  for (unsigned id : {0u, 1u}) {
    vm.lapic(id).reset(false);
    EXPECT_EQ(vm.lapic(id).base(), 0xfee00800u | (id == 0 ? 0x100 : 0));
    EXPECT_EQ(read(vm, kId, id), id << 24);
    EXPECT_EQ(read(vm, kVersion, id), 0x50014u);
    EXPECT_EQ(read(vm, kSvr, id), 0xffu);
    EXPECT_EQ(read(vm, kDfr, id), 0xffffffffu);
    EXPECT_EQ(read(vm, kLdr, id), 0u);
    EXPECT_EQ(read(vm, kTpr, id), 0u);
    for (uint32_t lvt : {kLvtTimer, kLvtThermal, kLvtPerf, kLvt1, kLvtError}) EXPECT_EQ(read(vm, lvt, id), 0x10000u);
  }
  EXPECT_EQ(read(vm, kLvt0, 0), 0x700u);  // KVM's BSP takes ExtINT from the start
  EXPECT_EQ(read(vm, kLvt0, 1), 0x10000u);
}

TEST(LapicReset, InitKeepsIdAndBase) {
  FakeVm vm;
  write(vm, kId, 0x05000000);
  write(vm, kLdr, 0x01000000);
  vm.lapic().set_base(0xfee01900, false);
  fixed(vm, 0x40);
  vm.lapic().reset(true);
  EXPECT_EQ(read(vm, kId), 0x05000000u);
  EXPECT_EQ(vm.lapic().base(), 0xfee01900u);
  EXPECT_EQ(read(vm, kLdr), 0u);
  EXPECT_FALSE(vm.requested(0, 0x40));
}

TEST(LapicPriority, HighestVectorFirstAndLowerClassesWait) {
  FakeVm vm;
  fixed(vm, 0x31);
  fixed(vm, 0x52);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x52);
  EXPECT_EQ(read(vm, kPpr), 0x50u);
  fixed(vm, 0x5f);  // the same class does not interrupt
  EXPECT_FALSE(vm.lapic().has_interrupt());
  fixed(vm, 0x60);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x60);
  vm.lapic().eoi();
  vm.lapic().eoi();
  EXPECT_EQ(vm.lapic().acknowledge(), 0x5f);
  vm.lapic().eoi();
  EXPECT_EQ(vm.lapic().acknowledge(), 0x31);
  vm.lapic().eoi();
  EXPECT_EQ(vm.lapic().acknowledge(), -1);
}

TEST(LapicPriority, TprMasksItsClassAndBelow) {
  FakeVm vm;
  write(vm, kTpr, 0x45);
  EXPECT_EQ(vm.lapic().cr8(), 4u);
  EXPECT_EQ(read(vm, kPpr), 0x45u);
  fixed(vm, 0x4f);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  const int kicks = vm.vcpu().kicks;
  vm.lapic().set_cr8(3);
  EXPECT_GT(vm.vcpu().kicks, kicks);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x4f);
  EXPECT_EQ(read(vm, kTpr), 0x30u);
}

TEST(LapicPriority, PprTakesTheHigherOfTprAndIsr) {
  FakeVm vm;
  fixed(vm, 0x63);
  vm.lapic().acknowledge();
  write(vm, kTpr, 0x6a);  // equal classes: TPR as a whole
  EXPECT_EQ(read(vm, kPpr), 0x6au);
  write(vm, kTpr, 0x5a);
  EXPECT_EQ(read(vm, kPpr), 0x60u);
}

TEST(LapicPriority, EoiKicksForWhatWasHeldBack) {
  FakeVm vm;
  fixed(vm, 0x80);
  vm.lapic().acknowledge();
  fixed(vm, 0x70);
  const int kicks = vm.vcpu().kicks;
  write(vm, kEoi, 0);
  EXPECT_EQ(vm.vcpu().kicks, kicks + 1);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x70);
}

TEST(Lapic, SoftwareDisabledRefusesFixedAndMasksLvts) {
  FakeVm vm;
  write(vm, kLvt1, 0x400);
  write(vm, kSvr, 0xff);
  EXPECT_EQ(read(vm, kLvt1), 0x10400u);
  write(vm, kLvt1, 0x400);
  EXPECT_EQ(read(vm, kLvt1), 0x10400u);
  EXPECT_EQ(vm.lapic().accept(DeliveryMode::kFixed, 0x40, true, false), 0);
  EXPECT_FALSE(vm.requested(0, 0x40));
  EXPECT_EQ(vm.lapic().accept(DeliveryMode::kNmi, 0, true, false), 1);  // NMI, INIT, SIPI come through
}

TEST(Lapic, RegistersTakeOnlyAligned32BitStores) {
  FakeVm vm;
  vm.lapic().mmio_write(kTpr, 1, 0x20);
  vm.lapic().mmio_write(kTpr + 4, 4, 0x20);
  EXPECT_EQ(read(vm, kTpr), 0u);
  EXPECT_EQ(vm.lapic().mmio_read(kVersion + 2, 1) & 0xff, 0x05u);
}

TEST(Lapic, PerformanceEntryMasksItself) {
  FakeVm vm;
  write(vm, kLvtPerf, 0x400);
  EXPECT_EQ(vm.lapic().deliver_local(kLvtPerf), 1);
  EXPECT_EQ(vm.vcpu().nmis, 1);
  EXPECT_EQ(read(vm, kLvtPerf), 0x10400u);
}

TEST(Lapic, AnEntryThatAppearsIsMasked) {
  FakeVm vm;
  vm.lapic().set_features({.x2apic = true, .tsc_deadline = true, .cmci = true});  // KVM_X86_SETUP_MCE
  EXPECT_EQ(read(vm, kLvtCmci), 0x10000u);
  write(vm, kLvtCmci, 0x41);
  vm.lapic().set_features({.x2apic = true, .tsc_deadline = true, .cmci = true});
  EXPECT_EQ(read(vm, kLvtCmci), 0x41u);
}

// --- IPIs

TEST(Ipi, PhysicalReachesOne) {
  FakeVm vm(3);
  ipi(vm, kAssert | 0x41, 2);
  EXPECT_FALSE(vm.requested(0, 0x41));
  EXPECT_FALSE(vm.requested(1, 0x41));
  EXPECT_TRUE(vm.requested(2, 0x41));
}

TEST(Ipi, PhysicalFollowsARewrittenId) {
  FakeVm vm(2);
  write(vm, kId, 9u << 24, 1);
  ipi(vm, kAssert | 0x41, 9);
  EXPECT_TRUE(vm.requested(1, 0x41));
  ipi(vm, kAssert | 0x42, 1);
  EXPECT_FALSE(vm.requested(1, 0x42));
}

TEST(Ipi, ShorthandsSelfAllOthers) {
  FakeVm vm(3);
  ipi(vm, 1 << 18 | kAssert | 0x41);
  ipi(vm, 2 << 18 | kAssert | 0x42);
  ipi(vm, 3 << 18 | kAssert | 0x43);
  EXPECT_TRUE(vm.requested(0, 0x41) && !vm.requested(1, 0x41));
  EXPECT_TRUE(vm.requested(0, 0x42) && vm.requested(1, 0x42) && vm.requested(2, 0x42));
  EXPECT_TRUE(!vm.requested(0, 0x43) && vm.requested(1, 0x43) && vm.requested(2, 0x43));
}

TEST(Ipi, LogicalFlatIsABitMask) {
  FakeVm vm(3);
  for (unsigned id = 0; id < 3; ++id) write(vm, kLdr, 1u << (24 + id), id);
  ipi(vm, 1 << 11 | kAssert | 0x41, 0x6);
  EXPECT_TRUE(!vm.requested(0, 0x41) && vm.requested(1, 0x41) && vm.requested(2, 0x41));
}

TEST(Ipi, LogicalClusterMatchesClusterThenBits) {
  FakeVm vm(3);
  for (unsigned id = 0; id < 3; ++id) write(vm, kDfr, 0x0fffffff, id);
  write(vm, kLdr, 0x11000000, 0);
  write(vm, kLdr, 0x12000000, 1);
  write(vm, kLdr, 0x21000000, 2);
  ipi(vm, 1 << 11 | kAssert | 0x41, 0x13);
  EXPECT_TRUE(vm.requested(0, 0x41) && vm.requested(1, 0x41) && !vm.requested(2, 0x41));
  ipi(vm, 1 << 11 | kAssert | 0x42, 0x21);
  EXPECT_TRUE(!vm.requested(0, 0x42) && vm.requested(2, 0x42));
}

TEST(Ipi, LowestPriorityReachesExactlyOneEnabled) {
  FakeVm vm(4);
  for (unsigned id = 0; id < 4; ++id) write(vm, kLdr, 1u << (24 + id), id);
  write(vm, kSvr, 0xff, 3);
  for (uint8_t vector = 0x40; vector < 0x60; ++vector) {
    ipi(vm, 1 << 11 | kAssert | 0x100 | vector, 0xe);  // 1, 2 and the disabled 3
    EXPECT_EQ(vm.requested(1, vector) + vm.requested(2, vector), 1);
    EXPECT_FALSE(vm.requested(0, vector) || vm.requested(3, vector));
  }
}

TEST(Ipi, InitSipiNmiSmi) {
  FakeVm vm(2);
  ipi(vm, 0x500 | kAssert | 1 << 15, 1);
  ipi(vm, 0x500 | 1 << 15, 1);  // level de-assert: nothing
  EXPECT_EQ(vm.vcpu(1).inits, 1);
  ipi(vm, 0x600 | kAssert | 0x9a, 1);
  EXPECT_EQ(vm.vcpu(1).sipis, std::vector<uint8_t>{0x9a});
  ipi(vm, 3 << 18 | 0x400 | kAssert);
  EXPECT_EQ(vm.vcpu(1).nmis, 1);
  EXPECT_EQ(vm.vcpu(0).nmis, 0);
  ipi(vm, 0x200 | kAssert, 1);
  EXPECT_EQ(vm.vcpu(1).smis, 1);
}

TEST(Ipi, BroadcastByFf) {
  FakeVm vm(2);
  ipi(vm, kAssert | 0x41, 0xff);
  EXPECT_TRUE(vm.requested(0, 0x41) && vm.requested(1, 0x41));
}

// --- x2APIC

TEST(X2apic, OnlyAllowedTransitions) {
  FakeVm vm;
  Lapic& lapic = vm.lapic();
  EXPECT_FALSE(lapic.set_base(0xfee00500, false));  // EXTD without EN
  EXPECT_FALSE(lapic.set_base(0xfee00a00, false));  // reserved bit 9
  EXPECT_TRUE(lapic.set_base(0xfee00100, false));   // off
  EXPECT_FALSE(lapic.set_base(0xfee00d00, false));  // off to x2APIC
  EXPECT_TRUE(lapic.set_base(0xfee00900, false));
  EXPECT_TRUE(lapic.set_base(0xfee00d00, false));
  EXPECT_FALSE(lapic.set_base(0xfee00900, false));  // back to xAPIC
  EXPECT_TRUE(lapic.set_base(0xfee00100, false));
  EXPECT_TRUE(lapic.set_base(0xfee00d00, true));    // the host may
}

TEST(X2apic, NotOfferedFaults) {
  FakeVm vm;
  vm.lapic().set_features({.x2apic = false});
  EXPECT_FALSE(vm.lapic().set_base(0xfee00d00, false));
}

TEST(X2apic, LdrDerivesFromId) {
  FakeVm vm(40);
  vm.x2apic(37);
  uint64_t value = 0;
  EXPECT_TRUE(vm.lapic(37).msr_read(0x802, value));
  EXPECT_EQ(value, 37u);
  EXPECT_TRUE(vm.lapic(37).msr_read(0x80d, value));
  EXPECT_EQ(value, 0x00020020u);
}

TEST(X2apic, FaultsWhereTheManualSaysSo) {
  FakeVm vm;
  uint64_t value;
  EXPECT_FALSE(vm.lapic().msr_read(0x802, value));  // in xAPIC mode
  vm.x2apic();
  Lapic& lapic = vm.lapic();
  EXPECT_FALSE(lapic.msr_write(0x802, 1));           // ID is read-only
  EXPECT_FALSE(lapic.msr_write(0x803, 0));           // version
  EXPECT_FALSE(lapic.msr_read(0x80b, value));        // EOI is write-only
  EXPECT_FALSE(lapic.msr_read(0x80e, value));        // no DFR
  EXPECT_FALSE(lapic.msr_read(0x831, value));        // no ICR high
  EXPECT_FALSE(lapic.msr_read(0x83f, value));        // SELF IPI is write-only
  EXPECT_FALSE(lapic.msr_write(0x828, 1));           // ESR takes zero only
  EXPECT_TRUE(lapic.msr_write(0x828, 0));
  EXPECT_FALSE(lapic.msr_write(0x808, 1ull << 32));
  EXPECT_FALSE(lapic.msr_write(0x830, 1 << 20));
  EXPECT_FALSE(lapic.msr_write(0x83f, 0x100));
  EXPECT_FALSE(lapic.msr_read(0x840, value));
  EXPECT_FALSE(lapic.msr_read(0x8ff, value));
  EXPECT_EQ(lapic.mmio_read(kId, 4) & 0xffffffff, 0xffffffffu);
}

TEST(X2apic, IcrIsOneRegisterAndSelfIpiWorks) {
  FakeVm vm(2);
  vm.x2apic(0);
  vm.x2apic(1);
  EXPECT_TRUE(vm.lapic().msr_write(0x830, 1ull << 32 | kAssert | 0x41));
  EXPECT_TRUE(vm.requested(1, 0x41));
  uint64_t value = 0;
  EXPECT_TRUE(vm.lapic().msr_read(0x830, value));
  EXPECT_EQ(value, 1ull << 32 | kAssert | 0x41);
  EXPECT_TRUE(vm.lapic().msr_write(0x83f, 0x55));
  EXPECT_TRUE(vm.requested(0, 0x55));
}

TEST(X2apic, LogicalClustersOfSixteen) {
  FakeVm vm(20);
  for (unsigned id = 0; id < 20; ++id) vm.x2apic(id);
  EXPECT_TRUE(vm.lapic().msr_write(0x830, 0x0001000aull << 32 | 1 << 11 | kAssert | 0x41));
  for (unsigned id = 0; id < 20; ++id) EXPECT_EQ(vm.requested(id, 0x41), id == 17 || id == 19) << id;
}

// In xAPIC mode an id is cut to 8 bits. That of 257 is another's then: architecturally both are meant, and with ids of 32 bits (api.rst, KVM_CAP_X2APIC_API)
// the one whose own it is.
TEST(X2apic, AnIdCutTo8BitsIsNotAnothers) {
  FakeVm vm(2);
  FakeVcpu high(vm.clock);
  high.lapic = vm.chip->create_lapic(257, false, high);
  ASSERT_TRUE(high.lapic);
  vm.x2apic(0);
  auto init = [&](uint64_t destination) { EXPECT_TRUE(vm.lapic().msr_write(0x830, destination << 32 | 0x500 | kAssert)); };
  init(1);
  EXPECT_EQ(vm.vcpu(1).inits, 1);
  EXPECT_EQ(high.inits, 1);
  EXPECT_EQ(vm.chip->enable_x2apic_api(KVM_X2APIC_API_USE_32BIT_IDS), 0);
  init(1);
  EXPECT_EQ(vm.vcpu(1).inits, 2);
  EXPECT_EQ(high.inits, 1);
  init(257);
  EXPECT_EQ(vm.vcpu(1).inits, 2);
  EXPECT_EQ(high.inits, 2);
  init(0xffffffff);
  EXPECT_EQ(vm.vcpu(1).inits + high.inits, 4) << "no broadcast in xAPIC mode";
  vm.chip->destroy_lapic(std::move(high.lapic));
}

// --- timer

TEST(LapicTimer, OneShotFiresOnce) {
  FakeVm vm;
  write(vm, kTdcr, 0xb);  // by 1: a tick a nanosecond
  write(vm, kLvtTimer, 0x40);
  write(vm, kTmict, 1'000'000);
  vm.advance(400'000);
  EXPECT_EQ(read(vm, kTmcct), 600'000u);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  vm.advance(600'000);
  EXPECT_EQ(read(vm, kTmcct), 0u);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x40);
  vm.lapic().eoi();
  vm.advance(10'000'000);
  EXPECT_FALSE(vm.lapic().has_interrupt());
}

TEST(LapicTimer, DividesAsTheTableSays) {
  const std::pair<uint32_t, uint32_t> kTable[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
  for (auto [tdcr, divide] : kTable) {
    FakeVm vm;
    write(vm, kTdcr, tdcr);
    write(vm, kTmict, 1'000'000);
    vm.advance(128 * 1000);
    EXPECT_EQ(read(vm, kTmcct), 1'000'000u - 128 * 1000 / divide);
  }
}

TEST(LapicTimer, PeriodicReloadsAndKeepsItsPhase) {
  FakeVm vm;
  write(vm, kTdcr, 0xb);
  write(vm, kLvtTimer, 0x20040);
  write(vm, kTmict, 1'000'000);
  vm.advance(1'300'000);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x40);
  vm.lapic().eoi();
  EXPECT_EQ(read(vm, kTmcct), 700'000u);
  vm.advance(700'000);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x40);
}

TEST(LapicTimer, MaskedRunsWithoutInterrupt) {
  FakeVm vm;
  write(vm, kTdcr, 0xb);
  write(vm, kLvtTimer, 0x10040);
  write(vm, kTmict, 1'000'000);
  vm.advance(1'000'000);
  EXPECT_EQ(read(vm, kTmcct), 0u);
  EXPECT_FALSE(vm.lapic().has_interrupt());
}

TEST(LapicTimer, InitialCountOfZeroStops) {
  FakeVm vm;
  write(vm, kTdcr, 0xb);
  write(vm, kLvtTimer, 0x40);
  write(vm, kTmict, 1'000'000);
  write(vm, kTmict, 0);
  vm.advance(2'000'000);
  EXPECT_FALSE(vm.lapic().has_interrupt());
}

TEST(LapicTimer, TscDeadlineFiresWhenTheTscIsThere) {
  FakeVm vm;
  write(vm, kLvtTimer, 2 << 17 | 0x40);
  const uint64_t deadline = vm.vcpu().guest_tsc() + 2'000'000;  // a millisecond
  EXPECT_TRUE(vm.lapic().msr_write(0x6e0, deadline));
  EXPECT_EQ(vm.lapic().tsc_deadline(), deadline);
  EXPECT_EQ(read(vm, kTmcct), 0u);
  vm.advance(999'999);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  vm.advance(2);
  EXPECT_EQ(vm.lapic().acknowledge(), 0x40);
  EXPECT_EQ(vm.lapic().tsc_deadline(), 0u);
}

TEST(LapicTimer, TscDeadlineInThePastFiresAtOnceAndZeroDisarms) {
  FakeVm vm;
  write(vm, kLvtTimer, 2 << 17 | 0x40);
  vm.lapic().set_tsc_deadline(vm.vcpu().guest_tsc() + 1000);
  vm.lapic().set_tsc_deadline(0);
  vm.advance(10'000);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  vm.lapic().set_tsc_deadline(1);
  EXPECT_TRUE(vm.lapic().has_interrupt());
}

TEST(LapicTimer, TscDeadlineFollowsTheTsc) {
  FakeVm vm;
  write(vm, kLvtTimer, 2 << 17 | 0x40);
  vm.lapic().set_tsc_deadline(vm.vcpu().guest_tsc() + 2'000'000);
  vm.vcpu().tsc_offset -= 1'000'000;
  vm.advance(1'000'001);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  vm.advance(500'001);
  EXPECT_TRUE(vm.lapic().has_interrupt());
}

TEST(LapicTimer, DeadlineIsIgnoredInOtherModes) {
  FakeVm vm;
  vm.lapic().set_tsc_deadline(5);
  EXPECT_EQ(vm.lapic().tsc_deadline(), 0u);
  write(vm, kTmict, 1000);
  write(vm, kLvtTimer, 2 << 17 | 0x40);  // changing over disarms
  EXPECT_EQ(read(vm, kTmict), 0u);
}

// --- state

TEST(LapicState, SaveLoadSaveIsIdentical) {
  FakeVm vm, other;
  write(vm, kTdcr, 0xb);
  write(vm, kLvtTimer, 0x20040);
  write(vm, kTmict, 5'000'000);
  write(vm, kLdr, 0x01000000);
  write(vm, kTpr, 0x23);
  fixed(vm, 0x51);
  vm.lapic().acknowledge();
  vm.lapic().accept(DeliveryMode::kFixed, 0x61, true, true);
  vm.advance(2'000'000);
  kvm_lapic_state saved, again;
  vm.lapic().get_state(saved);
  EXPECT_EQ(other.lapic().set_state(saved), 0);
  other.lapic().get_state(again);
  EXPECT_EQ(memcmp(&saved, &again, sizeof saved), 0);
  EXPECT_EQ(read(other, kTmcct), 3'000'000u);
  other.advance(3'000'000);
  EXPECT_TRUE(other.requested(0, 0x40));
  EXPECT_EQ(other.lapic().acknowledge(), 0x61);
}

TEST(LapicState, X2apicIdHasTwoFormats) {
  FakeVm vm(3);
  vm.x2apic(2);
  kvm_lapic_state state;
  vm.lapic(2).get_state(state);
  uint32_t id;
  memcpy(&id, state.regs + kId, 4);
  EXPECT_EQ(id, 2u << 24);
  EXPECT_EQ(vm.lapic(2).set_state(state), 0);
  EXPECT_EQ(vm.lapic(2).reg(kId), 2u);

  EXPECT_EQ(vm.chip->enable_x2apic_api(KVM_X2APIC_API_USE_32BIT_IDS), 0);
  vm.lapic(2).get_state(state);
  memcpy(&id, state.regs + kId, 4);
  EXPECT_EQ(id, 2u);
  id = 3;
  memcpy(state.regs + kId, &id, 4);
  EXPECT_EQ(vm.lapic(2).set_state(state), -EINVAL);
}

TEST(LapicState, AnArmedDeadlineStaysWhereTheModeStays) {
  FakeVm vm;
  write(vm, kLvtTimer, 2 << 17 | 0x40);
  const uint64_t deadline = vm.vcpu().guest_tsc() + 2'000'000;
  vm.lapic().set_tsc_deadline(deadline);
  kvm_lapic_state state;
  vm.lapic().get_state(state);
  EXPECT_EQ(vm.lapic().set_state(state), 0);
  EXPECT_EQ(vm.lapic().tsc_deadline(), deadline);
  vm.advance(999'999);
  EXPECT_FALSE(vm.lapic().has_interrupt());
  vm.advance(2);
  EXPECT_TRUE(vm.lapic().has_interrupt());
  vm.lapic().set_tsc_deadline(vm.vcpu().guest_tsc() + 2'000'000);
  const uint32_t one_shot = 0x40;
  memcpy(state.regs + kLvtTimer, &one_shot, 4);
  EXPECT_EQ(vm.lapic().set_state(state), 0);
  EXPECT_EQ(vm.lapic().tsc_deadline(), 0u);
}

}  // namespace
}  // namespace vireo::softkvm
