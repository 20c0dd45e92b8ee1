// SPDX-License-Identifier: Apache-2.0
// Far transfers, IRET, fast system calls. Expected values: Intel SDM vol 2, the instructions' pages.
#include <gtest/gtest.h>

#include "softkvm/cpu/system_fake.h"

namespace vireo::softkvm {
namespace {

void expect_fault(Machine& m, Outcome outcome, uint8_t vector, uint32_t error, int line) {
  EXPECT_EQ(outcome, Outcome::kFault) << "line " << line;
  EXPECT_EQ(m.v.fault.vector, vector) << "line " << line;
  EXPECT_EQ(m.v.fault.error, error) << "line " << line;
}
#define EXPECT_FAULT(outcome, vector, error) expect_fault(m, outcome, vector, error, __LINE__)

void push_frame64(Machine& m, uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp, uint64_t ss) {
  const uint64_t frame[] = {rip, cs, flags, rsp, ss};
  for (unsigned i = 0; i < 5; i++) m.poke(Machine::kStack + i * 8, frame[i]);
}

TEST(Iretq, ReturnsToUserMode) {
  Machine m;
  m.long_mode(0);
  m.v.nmi_masked = true;
  m.v.segment[kDS] = m.v.segment[kSS];  // a kernel data segment does not survive
  m.v.segment[kFS] = Segment{};
  m.v.segment[kFS].unusable = true;
  m.v.segment[kFS].base = 0x1234567000;  // set by MSR with a null selector: stays
  m.v.segment[kGS] = m.v.segment[kSS];
  m.v.segment[kGS].base = 0x7654321000;  // loses selector and validity alone
  push_frame64(m, 0x400123, Machine::kUserCs, kIF | kCF | kOF | 2, 0x7fffffff0000, Machine::kUserSs);
  ASSERT_EQ(m.execute({0x48, 0xcf}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x400123u);
  EXPECT_EQ(m.v.cpl, 3);
  EXPECT_EQ(m.v.gpr[kRsp], 0x7fffffff0000u);
  EXPECT_EQ(m.v.rflags(), kIF | kCF | kOF | 2);
  EXPECT_FALSE(m.v.nmi_masked);
  EXPECT_TRUE(m.v.segment[kDS].unusable);
  EXPECT_FALSE(m.v.segment[kES].unusable);
  EXPECT_EQ(m.v.segment[kFS].base, 0x1234567000u);
  EXPECT_TRUE(m.v.segment[kGS].unusable);
  EXPECT_EQ(m.v.segment[kGS].selector, 0);
  EXPECT_EQ(m.v.segment[kGS].base, 0x7654321000u);
}

TEST(Iretq, ToCompatibilityModeKeeps32BitsOfRsp) {
  Machine m;
  m.long_mode(0);
  push_frame64(m, 0x8000123, Machine::kUserCs32, 2, 0x12345678ffff0000, Machine::kUserSs);
  ASSERT_EQ(m.execute({0x48, 0xcf}), Outcome::kJump);
  EXPECT_EQ(m.v.code_mode(), CodeMode::k32);
  EXPECT_EQ(m.v.gpr[kRsp], 0xffff0000u);
}

TEST(Iretq, AllowsANullSsForAKernelTarget) {
  Machine m;
  m.long_mode(0);
  push_frame64(m, 0x5000, Machine::kKernelCs, 2, 0x6000, 0);
  ASSERT_EQ(m.execute({0x48, 0xcf}), Outcome::kJump);
  EXPECT_TRUE(m.v.segment[kSS].unusable);
  EXPECT_EQ(m.v.gpr[kRsp], 0x6000u);
}

TEST(Iretq, RefusesBadFrames) {
  struct Case {
    uint64_t rip, cs, ss;
    uint8_t vector;
    uint32_t error;
  };
  const Case kCases[] = {
      {0x800000000000, Machine::kUserCs, Machine::kUserSs, kGP, 0},  // non-canonical
      {0x1000, 0, Machine::kUserSs, kGP, 0},                        // null CS
      {0x1000, 0x100, Machine::kUserSs, kGP, 0x100},                // beyond the GDT
      {0x1000, Machine::kKernelSs, Machine::kKernelSs, kGP, 0x10},  // not code
      {0x1000, 0x28, 0x20, kGP, 0x28},                              // RPL 0, DPL 3
      {0x1000, Machine::kUserCs, 0, kGP, 0},                        // null SS for CPL 3
      {0x1000, Machine::kUserCs, Machine::kKernelSs, kGP, 0x10},    // SS.RPL
      {0x1000, Machine::kUserCs, 0x2b, kGP, 0x28},                  // SS is code
  };
  for (const Case& c : kCases) {
    Machine m;
    m.long_mode(0);
    push_frame64(m, c.rip, c.cs, 2, 0x6000, c.ss);
    EXPECT_FAULT(m.execute({0x48, 0xcf}), c.vector, c.error);
    EXPECT_EQ(m.v.rip, Machine::kCode);
    EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack);
  }
}

TEST(Iretq, AbsentStackSegmentIsSs) {
  Machine m;
  m.long_mode(0);
  m.set_gdt(8, Machine::descriptor(0, 0xfffff, 0xc073));
  push_frame64(m, 0x1000, Machine::kUserCs, 2, 0x6000, 0x43);
  EXPECT_FAULT(m.execute({0x48, 0xcf}), kSSv, 0x40);
}

TEST(Iretq, FromUserModeCannotChangeIfOrIopl) {
  Machine m;
  m.long_mode(3);
  push_frame64(m, 0x1000, Machine::kUserCs, 0x3000 | kAC | 2, 0x6000, Machine::kUserSs);
  ASSERT_EQ(m.execute({0x48, 0xcf}), Outcome::kJump);
  EXPECT_EQ(m.v.rflags(), kIF | kAC | 2);
}

TEST(Iretq, NestedTaskIsGp) {
  Machine m;
  m.long_mode(0);
  m.v.system_flags |= kNT;
  EXPECT_FAULT(m.execute({0x48, 0xcf}), kGP, 0);
}

TEST(Iretq, AFaultLetsNmisInAgain) {
  Machine m;
  m.long_mode(0);
  m.v.nmi_masked = true;
  m.v.system_flags |= kNT;
  EXPECT_EQ(m.execute({0x48, 0xcf}), Outcome::kFault);
  EXPECT_FALSE(m.v.nmi_masked);
}

TEST(Iretd, ToVm86LoadsAllSegments) {
  Machine m;
  m.protected_mode(0);
  const uint32_t frame[] = {0x1234, 0x2000, kVM | kIF | 0x3000 | 2, 0xfff0, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000};
  for (unsigned i = 0; i < 9; i++) m.poke(Machine::kStack + i * 4, frame[i]);
  ASSERT_EQ(m.execute({0xcf}), Outcome::kJump);
  EXPECT_TRUE(m.v.vm86());
  EXPECT_EQ(m.v.cpl, 3);
  EXPECT_EQ(m.v.segment[kCS].base, 0x20000u);
  EXPECT_EQ(m.v.segment[kCS].limit, 0xffffu);
  EXPECT_EQ(m.v.segment[kSS].base, 0x30000u);
  EXPECT_EQ(m.v.segment[kES].selector, 0x4000);
  EXPECT_EQ(m.v.segment[kGS].selector, 0x7000);
  EXPECT_EQ(m.v.gpr[kRsp], 0xfff0u);
}

TEST(Iretd, SameLevelPopsThreeDwords) {
  Machine m;
  m.protected_mode(0);
  const uint32_t frame[] = {0x1234, Machine::kKernelCs, kIF | kZF | 2};
  for (unsigned i = 0; i < 3; i++) m.poke(Machine::kStack + i * 4, frame[i]);
  ASSERT_EQ(m.execute({0xcf}), Outcome::kJump);
  EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack + 12);
  EXPECT_EQ(m.v.segment[kSS].selector, Machine::kKernelSs);
}

TEST(Iret, InVm86FollowsIoplAndVme) {
  Machine m;
  m.vm86_mode(0);
  EXPECT_FAULT(m.execute({0xcf}), kGP, 0);
  m.v.cr4 = kCr4Vme;
  m.poke<uint16_t>(0x11000, 0x77);
  m.poke<uint16_t>(0x11002, 0x2000);
  m.poke<uint16_t>(0x11004, kIF | 2);
  ASSERT_EQ(m.execute({0xcf}), Outcome::kJump);
  EXPECT_TRUE(m.v.system_flags & kVIF);
  EXPECT_EQ(m.v.segment[kCS].base, 0x20000u);
  EXPECT_EQ(m.v.gpr[kRsp], 0x1006u);
}

TEST(IretReal, TakesAllButTheVirtualFlags) {
  Machine m;
  m.real_mode();
  m.poke<uint16_t>(0x9000, 0x77);
  m.poke<uint16_t>(0x9002, 0x2000);
  m.poke<uint16_t>(0x9004, 0x3000 | kNT | kDF | 2);
  ASSERT_EQ(m.execute({0xcf}), Outcome::kJump);
  EXPECT_EQ(m.v.rflags(), 0x3000u | kNT | kDF | 2);
  EXPECT_EQ(m.v.rip, 0x77u);
}

TEST(JumpFar, EntersProtectedModeCode) {
  Machine m;
  m.protected_mode(0);
  m.v.segment[kCS] = {0, 0xffff, 0, 0x9b, false};
  update_mode(m.v);
  ASSERT_EQ(m.execute({0x66, 0xea, 0x78, 0x56, 0x03, 0x00, 0x08, 0x00}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x35678u);
  EXPECT_EQ(m.v.code_mode(), CodeMode::k32);
}

TEST(JumpFar, ChecksPrivilegeAndPresence) {
  Machine m;
  m.protected_mode(3);
  EXPECT_FAULT(m.execute({0xea, 0, 0, 0, 0, 0x08, 0x00}), kGP, 0x08);  // a more privileged segment
  EXPECT_FAULT(m.execute({0xea, 0, 0, 0, 0, 0x00, 0x00}), kGP, 0);
  EXPECT_FAULT(m.execute({0xea, 0, 0, 0, 0, 0x23, 0x00}), kGP, 0x20);  // data
  m.set_gdt(8, Machine::descriptor(0, 0xfffff, 0xc07b));
  EXPECT_FAULT(m.execute({0xea, 0, 0, 0, 0, 0x43, 0x00}), kNP, 0x40);
  m.set_gdt(8, Machine::descriptor(0, 0xfffff, 0xc09f));  // conforming, DPL 0
  ASSERT_EQ(m.execute({0xea, 0, 0, 0, 0, 0x40, 0x00}), Outcome::kJump);
  EXPECT_EQ(m.v.segment[kCS].selector, 0x43);
  EXPECT_EQ(m.v.cpl, 3);
}

TEST(JumpFar, MarksTheSegmentAccessed) {
  Machine m;
  m.protected_mode(0);
  m.set_gdt(8, Machine::descriptor(0, 0xfffff, 0xc09a));
  ASSERT_EQ(m.execute({0xea, 0, 0, 0, 0, 0x40, 0x00}), Outcome::kJump);
  EXPECT_EQ(m.peek<uint8_t>(Machine::kGdt + 0x45), 0x9b);
  EXPECT_EQ(m.v.segment[kCS].access, 0xc09b);
}

TEST(CallFar, ThroughAGateToAnInnerLevelCopiesParameters) {
  Machine m;
  m.protected_mode(3);
  m.set_gdt(8, Machine::gate(Machine::kKernelCs, 0x55000, 12, 3, 2));
  m.poke<uint32_t>(Machine::kStack, 0x11111111);
  m.poke<uint32_t>(Machine::kStack + 4, 0x22222222);
  ASSERT_EQ(m.execute({0x9a, 0, 0, 0, 0, 0x43, 0x00}), Outcome::kJump);
  EXPECT_EQ(m.v.cpl, 0);
  EXPECT_EQ(m.v.rip, 0x55000u);
  EXPECT_EQ(m.v.gpr[kRsp], 0x8000u - 24);
  const uint32_t expected[] = {Machine::kCode + 7, Machine::kUserCs32, 0x11111111, 0x22222222, Machine::kStack, Machine::kUserSs};
  for (unsigned i = 0; i < 6; i++) EXPECT_EQ(m.peek<uint32_t>(0x8000 - 24 + i * 4), expected[i]) << i;
  // ... and back, releasing the parameters from both stacks.
  ASSERT_EQ(m.execute({0xca, 8, 0}), Outcome::kJump);
  EXPECT_EQ(m.v.cpl, 3);
  EXPECT_EQ(m.v.rip, Machine::kCode + 7);
  EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack + 8);
  EXPECT_EQ(m.v.segment[kSS].selector, Machine::kUserSs);
}

TEST(CallFar, ThroughA64BitGate) {
  Machine m;
  m.long_mode(3);
  m.set_gdt(8, Machine::gate(Machine::kKernelCs, 0x81000000, 12, 3));
  m.set_gdt(9, 0xffffffff);
  m.v.gdtr.limit = 0x7f;
  m.poke<uint32_t>(0x5000, 0);
  m.poke<uint16_t>(0x5004, 0x43);
  m.v.gpr[kRax] = 0x5000;
  ASSERT_EQ(m.execute({0xff, 0x18}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0xffffffff81000000u);
  EXPECT_EQ(m.v.gpr[kRsp], 0x8000u - 32);
  EXPECT_TRUE(m.v.segment[kSS].unusable);
  EXPECT_EQ(m.peek<uint64_t>(0x8000 - 32), Machine::kCode + 2);
  EXPECT_EQ(m.peek<uint64_t>(0x8000 - 16), Machine::kStack);
}

TEST(CallFar, InRealModePushesCsAndIp) {
  Machine m;
  m.real_mode();
  ASSERT_EQ(m.execute({0x9a, 0x34, 0x12, 0x00, 0x20}), Outcome::kJump);
  EXPECT_EQ(m.peek<uint16_t>(0x8000 + 0xffe), 0x1000);
  EXPECT_EQ(m.peek<uint16_t>(0x8000 + 0xffc), 0x105);
  EXPECT_EQ(m.v.segment[kCS].base, 0x20000u);
  ASSERT_EQ(m.execute({0xcb}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x105u);
  EXPECT_EQ(m.v.gpr[kRsp], 0x1000u);
}

TEST(ReturnFar, To64BitKernelCode) {
  Machine m;
  m.long_mode(0);
  m.poke<uint64_t>(Machine::kStack, 0xffffffff80000000);
  m.poke<uint64_t>(Machine::kStack + 8, Machine::kKernelCs);
  ASSERT_EQ(m.execute({0x48, 0xcb}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0xffffffff80000000u);
  EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack + 16);
}

TEST(ReturnFar, ToAnInnerLevelIsGp) {
  Machine m;
  m.protected_mode(3);
  m.poke<uint32_t>(Machine::kStack, 0x1000);
  m.poke<uint32_t>(Machine::kStack + 4, 0x08);
  EXPECT_FAULT(m.execute({0xcb}), kGP, 0x08);
}

TEST(Syscall, SavesRipAndFlagsAndLoadsFlatSegments) {
  Machine m;
  m.long_mode(3);
  m.v.msr.star = 0x0023000800000000ull | 0x5000;
  m.v.msr.lstar = 0xffffffff81800000;
  m.v.msr.sfmask = kIF | kTF | kDF | kAC;
  m.v.set_rflags(kIF | kDF | kCF | kRF | 2);
  ASSERT_EQ(m.execute({0x0f, 0x05}), Outcome::kJump);
  EXPECT_EQ(m.v.gpr[kRcx], Machine::kCode + 2);
  EXPECT_EQ(m.v.gpr[11], kIF | kDF | kCF | 2);
  EXPECT_EQ(m.v.rip, 0xffffffff81800000u);
  EXPECT_EQ(m.v.rflags(), kCF | 2);
  EXPECT_EQ(m.v.cpl, 0);
  EXPECT_EQ(m.v.segment[kCS].selector, 0x08);
  EXPECT_EQ(m.v.segment[kCS].access, 0xa09b);
  EXPECT_EQ(m.v.segment[kSS].selector, 0x10);
  EXPECT_EQ(m.v.segment[kSS].access, 0xc093);
  EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack);
}

TEST(Syscall, FromCompatibilityModeIsAmds) {
  Machine m;
  m.long_mode(3);
  m.v.segment[kCS].access = 0xc0fb;
  update_mode(m.v);
  EXPECT_FAULT(m.execute({0x0f, 0x05}), kUD, 0);
  m.v.vendor_is_amd = true;
  m.v.msr.cstar = 0xffffffff81900000;
  ASSERT_EQ(m.execute({0x0f, 0x05}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0xffffffff81900000u);
}

TEST(Syscall, NeedsSce) {
  Machine m;
  m.long_mode(3);
  m.v.efer &= ~kEferSce;
  EXPECT_FAULT(m.execute({0x0f, 0x05}), kUD, 0);
}

TEST(Sysret, ReturnsTo64And32BitCode) {
  Machine m;
  m.long_mode(0);
  m.v.msr.star = 0x0023000800000000ull;
  m.v.gpr[kRcx] = 0x400000;
  m.v.gpr[11] = kIF | kVM | kRF | kCF | 2;
  ASSERT_EQ(m.execute({0x48, 0x0f, 0x07}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x400000u);
  EXPECT_EQ(m.v.segment[kCS].selector, 0x33);
  EXPECT_EQ(m.v.segment[kCS].access, 0xa0fb);
  EXPECT_EQ(m.v.segment[kSS].selector, 0x2b);
  EXPECT_EQ(m.v.segment[kSS].access, 0xc0f3);
  EXPECT_EQ(m.v.rflags(), kIF | kCF | 2);  // VM and RF do not return
  m.long_mode(0);
  m.v.gpr[kRcx] = 0xffffffff00400000;
  ASSERT_EQ(m.execute({0x0f, 0x07}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0x400000u);
  EXPECT_EQ(m.v.segment[kCS].selector, 0x23);
  EXPECT_EQ(m.v.segment[kCS].access, 0xc0fb);
}

TEST(Sysret, NonCanonicalRcxFaultsInTheKernelOnIntelAlone) {
  Machine m;
  m.long_mode(0);
  m.v.gpr[kRcx] = 0x800000000000;
  EXPECT_FAULT(m.execute({0x48, 0x0f, 0x07}), kGP, 0);
  EXPECT_EQ(m.v.cpl, 0);
  m.v.vendor_is_amd = true;
  EXPECT_EQ(m.execute({0x48, 0x0f, 0x07}), Outcome::kJump);
  EXPECT_EQ(m.v.cpl, 3);
}

TEST(Sysret, FromUserModeIsGp) {
  Machine m;
  m.long_mode(3);
  EXPECT_FAULT(m.execute({0x48, 0x0f, 0x07}), kGP, 0);
}

TEST(Sysenter, AndSysexit) {
  Machine m;
  m.long_mode(3);
  EXPECT_FAULT(m.execute({0x0f, 0x34}), kGP, 0);  // null IA32_SYSENTER_CS
  m.v.msr.sysenter_cs = 8;
  m.v.msr.sysenter_esp = 0xffff888000001000;
  m.v.msr.sysenter_eip = 0xffffffff81700000;
  ASSERT_EQ(m.execute({0x0f, 0x34}), Outcome::kJump);
  EXPECT_EQ(m.v.rip, 0xffffffff81700000u);
  EXPECT_EQ(m.v.gpr[kRsp], 0xffff888000001000u);
  EXPECT_FALSE(m.v.system_flags & kIF);
  m.v.gpr[kRcx] = 0x7000, m.v.gpr[kRdx] = 0x400000;
  ASSERT_EQ(m.execute({0x48, 0x0f, 0x35}), Outcome::kJump);
  EXPECT_EQ(m.v.segment[kCS].selector, 8 + 32 + 3);
  EXPECT_EQ(m.v.segment[kSS].selector, 8 + 40 + 3);
  EXPECT_EQ(m.v.gpr[kRsp], 0x7000u);
  m.v.vendor_is_amd = true;
  EXPECT_FAULT(m.execute({0x0f, 0x34}), kUD, 0);
}

}  // namespace
}  // namespace vireo::softkvm
