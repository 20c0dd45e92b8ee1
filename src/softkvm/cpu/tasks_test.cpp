// SPDX-License-Identifier: Apache-2.0
// Task switches and system management mode. Expected: Intel SDM vol 3, tables 8-1 and 8-2; chapter 32.
#include <gtest/gtest.h>

#include "softkvm/cpu/system_fake.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kNewTss = 0x6000;
constexpr uint16_t kNewTr = 0x40;

// A second task in GDT entry 8: level 0, at 0x22222, ESP 0x7777.
void make_task(Machine& m, uint16_t access = 0x89) {
  m.set_gdt(8, Machine::descriptor(kNewTss, 0x67, access));
  m.set_gdt(5, Machine::descriptor(Machine::kTss, 0x67, 0x8b));
  m.poke<uint32_t>(kNewTss + 0x20, 0x22222);
  m.poke<uint32_t>(kNewTss + 0x24, kCF | 2);
  for (unsigned i = 0; i < 8; i++) m.poke<uint32_t>(kNewTss + 0x28 + i * 4, 0x100 + i);
  m.poke<uint32_t>(kNewTss + 0x38, 0x7777);
  const uint32_t selectors[] = {0x10, 0x08, 0x10, 0x10, 0, 0};  // ES CS SS DS FS GS
  for (unsigned i = 0; i < 6; i++) m.poke<uint32_t>(kNewTss + 0x48 + i * 4, selectors[i]);
  m.poke<uint32_t>(kNewTss + 0x60, 0);
}

TEST(TaskSwitch, ByJumpSavesTheOldAndLoadsTheNew) {
  Machine m;
  m.protected_mode(0);
  make_task(m);
  m.v.gpr[kRbx] = 0xbbbb;
  m.v.dr7 = 0x455;
  ASSERT_EQ(m.execute({0xea, 0, 0, 0, 0, 0x40, 0}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x22222u);
  EXPECT_EQ(m.v.gpr[kRsp], 0x7777u);
  EXPECT_EQ(m.v.gpr[kRdx], 0x102u);
  EXPECT_EQ(m.v.rflags(), kCF | 2);
  EXPECT_EQ(m.v.tr.selector, kNewTr);
  EXPECT_EQ(m.v.tr.base, kNewTss);
  EXPECT_TRUE(m.v.cr0 & kCr0Ts);
  EXPECT_EQ(m.v.dr7, 0x400u);
  EXPECT_TRUE(m.v.segment[kFS].unusable);
  EXPECT_EQ(m.peek<uint32_t>(Machine::kTss + 0x20), Machine::kCode + 7);
  EXPECT_EQ(m.peek<uint32_t>(Machine::kTss + 0x34), 0xbbbbu);
  EXPECT_EQ(m.peek<uint8_t>(Machine::kGdt + 0x45), 0x8b);  // new: busy
  EXPECT_EQ(m.peek<uint8_t>(Machine::kGdt + 0x2d), 0x89);  // old: not
  EXPECT_EQ(m.peek<uint16_t>(kNewTss), 0);                 // no link
}

TEST(TaskSwitch, ByCallLinksAndIretReturns) {
  Machine m;
  m.protected_mode(0);
  make_task(m);
  ASSERT_EQ(m.execute({0x9a, 0, 0, 0, 0, 0x40, 0}), Outcome::kJump);
  EXPECT_TRUE(m.v.system_flags & kNT);
  EXPECT_EQ(m.peek<uint16_t>(kNewTss), Machine::kTr32);
  EXPECT_EQ(m.peek<uint8_t>(Machine::kGdt + 0x2d), 0x8b);  // old stays busy
  ASSERT_EQ(m.execute({0xcf}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, Machine::kCode + 7);
  EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack);
  EXPECT_EQ(m.v.tr.selector, Machine::kTr32);
  EXPECT_FALSE(m.v.system_flags & kNT);
  EXPECT_EQ(m.peek<uint8_t>(Machine::kGdt + 0x45), 0x89);
  EXPECT_FALSE(m.peek<uint32_t>(kNewTss + 0x24) & kNT);  // saved without NT
}

TEST(TaskSwitch, ByTaskGatePushesTheErrorCode) {
  Machine m;
  m.protected_mode(0);
  make_task(m);
  m.set_gate32(kGP, Machine::gate(kNewTr, 0, 5, 0));
  PendingException e;
  e.vector = kGP, e.has_error = true, e.error = 0x1234;
  ASSERT_EQ(deliver(m.v, e, 0), Outcome::kJump);
  EXPECT_EQ(m.v.gpr[kRsp], 0x7773u);
  EXPECT_EQ(m.peek<uint32_t>(0x7773), 0x1234u);
  EXPECT_EQ(m.peek<uint32_t>(Machine::kTss + 0x20), Machine::kCode);
  EXPECT_TRUE(m.v.system_flags & kNT);
}

TEST(TaskSwitch, RefusesBeforeTheCommit) {
  Machine m;
  m.protected_mode(0);
  make_task(m, 0x8b);  // busy
  EXPECT_EQ(m.execute({0xea, 0, 0, 0, 0, 0x40, 0}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kGP);
  EXPECT_EQ(m.v.fault.error, 0x40u);
  make_task(m);
  m.set_gdt(8, Machine::descriptor(kNewTss, 0x66, 0x89));
  EXPECT_EQ(m.execute({0xea, 0, 0, 0, 0, 0x40, 0}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kTS);
  m.set_gdt(8, Machine::descriptor(kNewTss, 0x67, 0x09));
  EXPECT_EQ(m.execute({0xea, 0, 0, 0, 0, 0x40, 0}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kNP);
  EXPECT_EQ(m.v.tr.selector, Machine::kTr32);
  EXPECT_EQ(m.v.rip, Machine::kCode);
}

TEST(TaskSwitch, FaultsAfterTheCommitBelongToTheNewTask) {
  Machine m;
  m.protected_mode(0);
  make_task(m);
  m.poke<uint32_t>(kNewTss + 0x54, 0x1b);  // DS: code, but readable... of level 3: allowed
  m.poke<uint32_t>(kNewTss + 0x50, 0x23);  // SS of level 3
  EXPECT_EQ(m.execute({0xea, 0, 0, 0, 0, 0x40, 0}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kTS);
  EXPECT_EQ(m.v.fault.error, 0x20u);
  EXPECT_EQ(m.v.rip, 0x22222u);
  EXPECT_EQ(m.v.tr.selector, kNewTr);
}

TEST(TaskSwitch, TrapBitRaisesDebug) {
  Machine m;
  m.protected_mode(0);
  make_task(m);
  m.poke<uint16_t>(kNewTss + 0x64, 1);
  EXPECT_EQ(m.execute({0xea, 0, 0, 0, 0, 0x40, 0}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kDB);
  EXPECT_EQ(m.v.fault.payload, 0x8000u);
  EXPECT_EQ(m.v.rip, 0x22222u);
}

TEST(TaskSwitch, SixteenBitTask) {
  Machine m;
  m.protected_mode(0);
  m.set_gdt(8, Machine::descriptor(kNewTss, 0x2b, 0x81));
  m.poke<uint16_t>(kNewTss + 0x0e, 0x3333);
  m.poke<uint16_t>(kNewTss + 0x10, 2);
  for (unsigned i = 0; i < 8; i++) m.poke<uint16_t>(kNewTss + 0x12 + i * 2, static_cast<uint16_t>(0x200 + i));
  const uint16_t selectors[] = {0x10, 0x08, 0x10, 0x10, 0};
  for (unsigned i = 0; i < 5; i++) m.poke<uint16_t>(kNewTss + 0x22 + i * 2, selectors[i]);
  ASSERT_EQ(m.execute({0xea, 0, 0, 0, 0, 0x40, 0}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x3333u);
  EXPECT_EQ(m.v.gpr[kRcx] & 0xffff, 0x201u);
  EXPECT_EQ(m.v.tr.type(), 3u);
}

TEST(TaskSwitch, IntoVm86) {
  Machine m;
  m.protected_mode(0);
  make_task(m);
  m.poke<uint32_t>(kNewTss + 0x20, 0x222);
  m.poke<uint32_t>(kNewTss + 0x24, kVM | 2);
  m.poke<uint32_t>(kNewTss + 0x4c, 0x1234);
  ASSERT_EQ(m.execute({0xea, 0, 0, 0, 0, 0x40, 0}), Outcome::kJump);
  EXPECT_TRUE(m.v.vm86());
  EXPECT_EQ(m.v.cpl, 3);
  EXPECT_EQ(m.v.segment[kCS].base, 0x12340u);
}

TEST(Smm, EntersAtSmbaseAndRsmReturns) {
  for (bool wide : {true, false}) {
    Machine m;
    m.set_feature(kCpuidLongMode, wide);
    wide ? m.long_mode(3) : m.protected_mode(3);
    m.v.gpr[kRbx] = wide ? 0x123456789abc : 0x12345678;
    m.v.cr3 = 0x5000;
    m.v.msr.smbase = 0x30000;
    Segment cs = m.v.segment[kCS], tr = m.v.tr;
    uint64_t cr0 = m.v.cr0, cr4 = m.v.cr4, efer = m.v.efer, flags = m.v.rflags();
    ASSERT_EQ(enter_smm(m.v), Outcome::kJump);
    EXPECT_TRUE(m.v.in_smm);
    EXPECT_EQ(m.v.rip, 0x8000u);
    EXPECT_EQ(m.v.segment[kCS].base, 0x30000u);
    EXPECT_EQ(m.v.segment[kCS].selector, 0x3000);
    EXPECT_EQ(m.v.segment[kDS].limit, 0xffffffffu);
    EXPECT_FALSE(m.v.protected_mode());
    EXPECT_TRUE(m.v.nmi_masked);
    EXPECT_EQ(m.peek<uint32_t>(0x3fefc) & 0x20000, 0x20000u);  // SMBASE can be relocated
    // Where the manuals have them: APM vol 2, table 10-1; Intel SDM vol 3, table 32-1.
    EXPECT_EQ(wide ? m.peek<uint64_t>(0x3ff78) : m.peek<uint32_t>(0x3fff0), Machine::kCode);
    EXPECT_EQ(wide ? m.peek<uint64_t>(0x3ffe0) : m.peek<uint32_t>(0x3ffdc), m.v.gpr[kRbx]);
    EXPECT_EQ(wide ? m.peek<uint64_t>(0x3ff50) : m.peek<uint32_t>(0x3fff8), 0x5000u);
    EXPECT_EQ(wide ? m.peek<uint64_t>(0x3ff70) : m.peek<uint32_t>(0x3fff4), flags);
    EXPECT_EQ(m.peek<uint16_t>(wide ? 0x3fe10 : 0x3ffac), cs.selector);
    m.poke<uint32_t>(wide ? 0x3ff00 : 0x3fef8, 0x50000);
    ASSERT_EQ(m.execute({0x0f, 0xaa}), Outcome::kJump);
    EXPECT_FALSE(m.v.in_smm);
    EXPECT_FALSE(m.v.nmi_masked);
    EXPECT_EQ(m.v.msr.smbase, 0x50000u);
    EXPECT_EQ(m.v.gpr[kRbx], wide ? 0x123456789abcu : 0x12345678u);
    EXPECT_EQ(m.v.rip, Machine::kCode);
    EXPECT_EQ(m.v.cpl, 3);
    EXPECT_EQ(m.v.cr0, cr0);
    EXPECT_EQ(m.v.cr4, cr4);
    EXPECT_EQ(m.v.efer, efer);
    EXPECT_EQ(m.v.rflags(), flags);
    EXPECT_EQ(m.v.segment[kCS].access, cs.access);
    EXPECT_EQ(m.v.segment[kCS].limit, cs.limit);
    EXPECT_EQ(m.v.tr.base, tr.base);
    EXPECT_EQ(m.v.gdtr.base, Machine::kGdt);
  }
}

TEST(Smm, RsmOutsideOfItIsUndefinedAndGoesBackIntoAHalt) {
  Machine m;
  m.set_feature(kCpuidLongMode, true);
  m.long_mode(0);
  EXPECT_EQ(m.execute({0x0f, 0xaa}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kUD);
  m.v.fault = PendingException{};
  m.v.msr.smbase = 0x30000;
  m.v.pkru = 0x55555554;  // in no field of the area: SMM leaves it alone
  m.v.halted = true;
  ASSERT_EQ(enter_smm(m.v), Outcome::kJump);
  EXPECT_FALSE(m.v.halted);
  EXPECT_EQ(m.peek<uint8_t>(0x3fec9), 1);  // auto halt restart
  EXPECT_EQ(m.execute({0x0f, 0xaa}), Outcome::kHalt);
  EXPECT_TRUE(m.v.halted);
  EXPECT_EQ(m.v.pkru, 0x55555554u);
}

TEST(Smm, RsmShutsDownWhereTheAreaHasImpossibleControlRegisters) {
  Machine m;
  m.set_feature(kCpuidLongMode, true);
  m.long_mode(0);
  m.v.msr.smbase = 0x30000;
  ASSERT_EQ(enter_smm(m.v), Outcome::kJump);
  m.poke<uint64_t>(0x3ff58, kCr0Pg);  // PG without PE
  EXPECT_EQ(m.execute({0x0f, 0xaa}), Outcome::kExit);
}

}  // namespace
}  // namespace vireo::softkvm
