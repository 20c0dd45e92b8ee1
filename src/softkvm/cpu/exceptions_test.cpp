// SPDX-License-Identifier: Apache-2.0
// Expected frames and error codes: Intel SDM vol 3, chapter 6.
#include <gtest/gtest.h>

#include "softkvm/cpu/system_fake.h"

namespace vireo::softkvm {
namespace {

PendingException exception(uint8_t vector) {
  PendingException e;
  e.pending = true;
  e.vector = vector;
  return e;
}
PendingException exception(uint8_t vector, uint32_t error) {
  PendingException e = exception(vector);
  e.has_error = true;
  e.error = error;
  return e;
}

TEST(DeliverLong, PushesTheFrameOnRsp0FromUserMode) {
  Machine m;
  m.long_mode(3);
  m.set_gate64(14, Machine::kKernelCs, 0xffffffff81000000, 14, 0);
  PendingException pf = exception(kPFv, 6);
  pf.payload = 0x7fff12345678;
  m.v.system_flags |= kTF | kNT | kDF | kAC;
  ASSERT_EQ(deliver(m.v, pf, 0), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0xffffffff81000000u);
  EXPECT_EQ(m.v.cpl, 0);
  EXPECT_EQ(m.v.cr2, 0x7fff12345678u);
  EXPECT_EQ(m.v.segment[kCS].selector, Machine::kKernelCs);
  EXPECT_EQ(m.v.segment[kSS].selector, 0);
  EXPECT_TRUE(m.v.segment[kSS].unusable);
  EXPECT_EQ(m.v.gpr[kRsp], 0x8000u - 48);
  EXPECT_EQ(m.peek<uint64_t>(0x8000 - 48), 6u);
  EXPECT_EQ(m.peek<uint64_t>(0x8000 - 40), Machine::kCode);
  EXPECT_EQ(m.peek<uint64_t>(0x8000 - 32), Machine::kUserCs);
  EXPECT_EQ(m.peek<uint64_t>(0x8000 - 24), kIF | kTF | kNT | kDF | kAC | kRF | 2);  // a fault: RF set
  EXPECT_EQ(m.peek<uint64_t>(0x8000 - 16), Machine::kStack);
  EXPECT_EQ(m.peek<uint64_t>(0x8000 - 8), Machine::kUserSs);
  EXPECT_EQ(m.v.system_flags, kDF | kAC);  // IF TF NT RF cleared by an interrupt gate
}

TEST(DeliverLong, TrapGateLeavesIf) {
  Machine m;
  m.long_mode(0);
  m.set_gate64(3, Machine::kKernelCs, 0x5000, 15, 3);
  ASSERT_EQ(m.execute({0xcc}), Outcome::kJump);
  EXPECT_TRUE(m.v.system_flags & kIF);
  EXPECT_EQ(m.peek<uint64_t>(m.v.gpr[kRsp]), Machine::kCode + 1);
}

TEST(DeliverLong, SameLevelAlignsTheStackTo16AndKeepsSs) {
  Machine m;
  m.long_mode(0);
  m.v.gpr[kRsp] = 0x9009;
  m.set_gate64(32, Machine::kKernelCs, 0x5000, 14, 0);
  ASSERT_EQ(deliver_interrupt(m.v, 32), Outcome::kJump);
  EXPECT_EQ(m.v.gpr[kRsp], 0x9000u - 40);
  EXPECT_EQ(m.peek<uint64_t>(0x9000 - 16), 0x9009u);
  EXPECT_EQ(m.v.segment[kSS].selector, Machine::kKernelSs);
  EXPECT_EQ(m.peek<uint64_t>(0x9000 - 24) & kRF, 0u);  // an interrupt: RF as it was
}

TEST(DeliverLong, IstTakesItsStackWithoutChangeOfLevel) {
  Machine m;
  m.long_mode(0);
  m.set_gate64(2, Machine::kKernelCs, 0x5000, 14, 0, 1);
  ASSERT_EQ(deliver_nmi(m.v), Outcome::kJump);
  EXPECT_EQ(m.v.gpr[kRsp], 0x7000u - 40);
  EXPECT_TRUE(m.v.nmi_masked);
}

TEST(DeliverLong, SoftwareInterruptNeedsTheGatesDpl) {
  Machine m;
  m.long_mode(3);
  m.set_gate64(0x80, Machine::kKernelCs, 0x5000, 14, 0);
  m.set_gate64(13, Machine::kKernelCs, 0x6000, 14, 0);
  ASSERT_EQ(m.execute({0xcd, 0x80}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x6000u);
  EXPECT_EQ(m.peek<uint64_t>(m.v.gpr[kRsp]), 0x80u * 8 + 2);  // IDT, no EXT
  EXPECT_EQ(m.peek<uint64_t>(m.v.gpr[kRsp] + 8), Machine::kCode);  // at the INT itself
}

TEST(DeliverLong, AbsentGateFaultsWithIdtAndExt) {
  Machine m;
  m.long_mode(0);
  m.set_gate64(11, Machine::kKernelCs, 0x6000, 14, 0);
  m.poke(Machine::kIdt + 33 * 16, Machine::gate(8, 0x5000, 14, 0, 0, false));
  ASSERT_EQ(deliver_interrupt(m.v, 33), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x6000u);
  EXPECT_EQ(m.peek<uint64_t>(m.v.gpr[kRsp]), 33u * 8 + 2 + 1);
}

TEST(DeliverLong, LegacyCodeSegmentInAGateIsGp) {
  Machine m;
  m.long_mode(0);
  m.set_gdt(8, Machine::descriptor(0, 0xfffff, 0xc09b));
  m.set_gate64(13, Machine::kKernelCs, 0x6000, 14, 0);
  m.set_gate64(6, 0x40, 0x5000, 14, 0);
  ASSERT_EQ(deliver(m.v, exception(kUD), 0), Outcome::kJump);
  EXPECT_EQ(m.peek<uint64_t>(m.v.gpr[kRsp]), 0x40u | 1);
}

// Table 6-5. Gates are absent but for #DF's and #PF's, so delivering `first` raises #NP; or the stack page is absent, so it raises #PF.
TEST(DoubleFault, FollowsTheTable) {
  struct Case {
    uint8_t first;
    bool page_fault_second;
    uint8_t delivered;
  };
  const Case kCases[] = {
      {kDE, false, kDFv}, {kTS, false, kDFv}, {kNP, false, kDFv}, {kSSv, false, kDFv}, {kGP, false, kDFv},
      {kDE, true, kPFv},  {kGP, true, kPFv},                                       // contributory, then page: one after the other
      {kPFv, false, kDFv}, {kPFv, true, kDFv},                                     // page, then either
      {kUD, false, kNP},  {kNM, false, kNP},  {kUD, true, kPFv}, {kDB, true, kPFv},  // benign first
  };
  for (const Case& c : kCases) {
    Machine m;
    m.long_mode(0);
    auto good_gate = [&](uint8_t vector) { m.set_gate64(vector, Machine::kKernelCs, 0x100u * vector, 14, 0, 1); };
    good_gate(kDFv);
    if (c.page_fault_second) {
      m.absent.insert((Machine::kStack - 1) >> 12);  // the first's frame cannot be written
      m.set_gate64(c.first, Machine::kKernelCs, 0x5000, 14, 0);
      if (c.delivered == kPFv) good_gate(kPFv);
    } else if (c.delivered == kNP) {
      good_gate(kNP);
    }
    if (!c.page_fault_second) {
      m.poke(Machine::kIdt + c.first * 16, Machine::gate(8, 0x5000, 14, 0, 0, false));
      if (c.first == kNP) m.poke(Machine::kIdt + kNP * 16, Machine::gate(8, 0x5000, 14, 0, 0, false));
    }
    ASSERT_EQ(deliver(m.v, exception(c.first), 0), Outcome::kJump) << int(c.first);
    EXPECT_EQ(m.v.rip, 0x100u * c.delivered) << int(c.first);
    if (c.delivered == kDFv) { EXPECT_EQ(m.peek<uint64_t>(m.v.gpr[kRsp]), 0u); }
  }
}

TEST(DoubleFault, ThatCannotBeDeliveredIsShutdown) {
  Machine m;
  m.long_mode(0);
  m.v.idtr.limit = 0;
  EXPECT_EQ(deliver(m.v, exception(kUD), 0), Outcome::kExit);
  EXPECT_EQ(m.run.exit_reason, static_cast<uint32_t>(KVM_EXIT_SHUTDOWN));
  EXPECT_EQ(m.v.rip, Machine::kCode);
}

TEST(DoubleFault, ExternalInterruptsAreBenignWhateverTheirVector) {
  Machine m;
  m.long_mode(0);
  m.set_gate64(kNP, Machine::kKernelCs, 0x6000, 14, 0);
  m.poke(Machine::kIdt + 13 * 16, Machine::gate(8, 0x5000, 14, 0, 0, false));
  ASSERT_EQ(deliver_interrupt(m.v, 13), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x6000u);
}

TEST(DeliverDebug, SetsDr6AndClearsGd) {
  Machine m;
  m.long_mode(0);
  m.set_gate64(kDB, Machine::kKernelCs, 0x5000, 14, 0);
  m.v.dr7 |= 1 << 13;
  m.v.dr6 = 0xffff0ff1;
  PendingException db = exception(kDB);
  db.payload = 1 << 14;  // BS
  ASSERT_EQ(deliver(m.v, db, 0), Outcome::kJump);
  EXPECT_EQ(m.v.dr6, 0xffff4ff0u);
  EXPECT_EQ(m.v.dr7, 0x400u);
  EXPECT_EQ(m.peek<uint64_t>(m.v.gpr[kRsp] + 16) & kRF, 0u);  // a trap
}

TEST(DeliverProtected, InnerLevelPushesSsEspOnTheTssStack) {
  Machine m;
  m.protected_mode(3);
  m.set_gate32(13, Machine::gate(Machine::kKernelCs, 0x55000, 14, 0));
  ASSERT_EQ(deliver(m.v, exception(kGP, 0x18), 0), Outcome::kJump);
  EXPECT_EQ(m.v.gpr[kRsp], 0x8000u - 24);
  EXPECT_EQ(m.v.rip, 0x55000u);
  EXPECT_EQ(m.v.segment[kSS].selector, 0x10);
  const uint32_t expected[] = {0x18, Machine::kCode, Machine::kUserCs32, kIF | kRF | 2, Machine::kStack, Machine::kUserSs};
  for (unsigned i = 0; i < 6; i++) EXPECT_EQ(m.peek<uint32_t>(0x8000 - 24 + i * 4), expected[i]) << i;
}

TEST(DeliverProtected, BadTssStackIsTs) {
  Machine m;
  m.protected_mode(3);
  m.set_gate32(kTS, Machine::gate(Machine::kKernelCs, 0x6000, 14, 0));
  m.set_gate32(kUD, Machine::gate(Machine::kKernelCs, 0x5000, 14, 0));
  m.poke<uint32_t>(Machine::kTss + 8, 0x23);  // a user segment for level 0
  // #UD is benign, #TS contributory: but #TS meets the same stack: #DF, then shutdown.
  EXPECT_EQ(deliver(m.v, exception(kUD), 0), Outcome::kExit);
  EXPECT_EQ(m.run.exit_reason, static_cast<uint32_t>(KVM_EXIT_SHUTDOWN));
}

TEST(DeliverProtected, SixteenBitGatePushesWords) {
  Machine m;
  m.protected_mode(0);
  m.set_gate32(0x21, Machine::gate(0x30, 0x5678, 6, 0));
  m.v.rip = 0x12345;
  ASSERT_EQ(deliver_interrupt(m.v, 0x21), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x5678u);
  EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack - 6);
  EXPECT_EQ(m.peek<uint16_t>(Machine::kStack - 6), 0x2345);
  EXPECT_EQ(m.peek<uint16_t>(Machine::kStack - 4), Machine::kKernelCs);
}

TEST(DeliverProtected, FromVm86PushesAndClearsTheDataSegments) {
  Machine m;
  m.vm86_mode(0);
  m.set_gate32(13, Machine::gate(Machine::kKernelCs, 0x5000, 14, 0));
  m.v.segment[kGS].selector = 0x4444;
  ASSERT_EQ(deliver(m.v, exception(kGP, 0), 0), Outcome::kJump);
  EXPECT_EQ(m.v.gpr[kRsp], 0x8000u - 40);
  EXPECT_FALSE(m.v.vm86());
  EXPECT_EQ(m.v.cpl, 0);
  const uint32_t expected[] = {0, 0x100, 0x1000, kIF | kVM | kRF | 2, 0x1000, 0x1000, 0x1000, 0x1000, 0x1000, 0x4444};
  for (unsigned i = 0; i < 10; i++) EXPECT_EQ(m.peek<uint32_t>(0x8000 - 40 + i * 4), expected[i]) << i;
  EXPECT_TRUE(m.v.segment[kDS].unusable);
  EXPECT_EQ(m.v.segment[kGS].selector, 0);
}

TEST(DeliverReal, PushesThreeWordsAndNoErrorCode) {
  Machine m;
  m.real_mode();
  m.poke<uint32_t>(13 * 4, 0x20001234);
  ASSERT_EQ(deliver(m.v, exception(kGP, 0), 0), Outcome::kJump);
  EXPECT_EQ(m.v.gpr[kRsp], 0x1000u - 6);
  EXPECT_EQ(m.v.rip, 0x1234u);
  EXPECT_EQ(m.v.segment[kCS].base, 0x20000u);
  EXPECT_EQ(m.peek<uint16_t>(0x8000 + 0x1000 - 6), 0x100);
  EXPECT_EQ(m.peek<uint16_t>(0x8000 + 0x1000 - 4), 0x1000);
  EXPECT_EQ(m.peek<uint16_t>(0x8000 + 0x1000 - 2), kIF | 2);
  EXPECT_EQ(m.v.system_flags, 0u);
}

TEST(DeliverReal, BeyondTheTableIsShutdown) {
  Machine m;
  m.real_mode();
  m.v.idtr.limit = 0;
  EXPECT_EQ(m.execute({0xcd, 0x10}), Outcome::kExit);
  EXPECT_EQ(m.run.exit_reason, static_cast<uint32_t>(KVM_EXIT_SHUTDOWN));
}

TEST(Deliver, ThatMustLeaveChangesNothing) {
  Machine m;
  m.long_mode(3);
  m.set_gate64(14, Machine::kKernelCs, 0x5000, 14, 0);
  m.exit_on_write = true;
  EXPECT_EQ(deliver(m.v, exception(kPFv, 0), 0), Outcome::kExit);
  EXPECT_EQ(m.v.rip, Machine::kCode);
  EXPECT_EQ(m.v.cpl, 3);
  EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack);
}

TEST(IntN, InVm86WithoutVmeNeedsIopl3) {
  Machine m;
  m.vm86_mode(0);
  EXPECT_EQ(m.execute({0xcd, 0x21}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kGP);
}

TEST(IntN, InVm86WithVmeGoesToTheProgramByTheRedirectionMap) {
  Machine m;
  m.vm86_mode(0);
  m.v.cr4 = kCr4Vme;
  m.poke<uint16_t>(Machine::kTss + 102, 104 + 32);  // redirection bitmap at 104, all zero: to the program
  m.v.tr.limit = 0x2000;
  m.poke<uint32_t>(0x21 * 4, 0x30000042);
  m.v.system_flags |= kVIF;
  ASSERT_EQ(m.execute({0xcd, 0x21}), Outcome::kJump);
  EXPECT_EQ(m.v.segment[kCS].selector, 0x3000);
  EXPECT_EQ(m.v.rip, 0x42u);
  EXPECT_EQ(m.peek<uint16_t>(0x10000 + 0x1000 - 2), kIF | 0x3000 | 2);  // IF shows VIF, IOPL 3
  EXPECT_FALSE(m.v.system_flags & kVIF);
  EXPECT_TRUE(m.v.system_flags & kIF);
}

TEST(Int3, LeavesToADebuggerAndCanBeInjectedByIt) {
  Machine m;
  m.long_mode(0);
  m.set_gate64(3, Machine::kKernelCs, 0x5000, 15, 3);
  m.v.breakpoint_exits = true;
  ASSERT_EQ(m.execute({0xcc}), Outcome::kExit);
  EXPECT_EQ(m.run.exit_reason, static_cast<uint32_t>(KVM_EXIT_DEBUG));
  EXPECT_EQ(m.run.debug.arch.pc, Machine::kCode);
  ASSERT_EQ(deliver(m.v, exception(kBP), 0), Outcome::kJump);
  EXPECT_EQ(m.peek<uint64_t>(m.v.gpr[kRsp]), Machine::kCode + 1);
}

TEST(Into, TrapsOnlyWithOverflow) {
  Machine m;
  m.protected_mode(0);
  m.set_gate32(4, Machine::gate(Machine::kKernelCs, 0x5000, 15, 3));
  EXPECT_EQ(m.execute({0xce}), Outcome::kNext);
  m.v.flag_of = 1;
  EXPECT_EQ(m.execute({0xce}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x5000u);
}

}  // namespace
}  // namespace vireo::softkvm
