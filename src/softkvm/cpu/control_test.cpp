// SPDX-License-Identifier: Apache-2.0
// Control and debug registers, flags, ports, time, reset. Expected values: Intel SDM vol 2 (MOV CR, MOV DR, POPF, CLI, STI, XSETBV,
// INVPCID), vol 3 2.5, 10.1.
#include <gtest/gtest.h>

#include "softkvm/cpu/system_fake.h"

namespace vireo::softkvm {
namespace {

Outcome move_to_cr(Machine& m, unsigned cr, uint64_t value) {
  m.v.gpr[kRax] = value;
  if (cr == 8) return m.execute({0x44, 0x0f, 0x22, 0xc0});
  return m.execute({0x0f, 0x22, static_cast<uint8_t>(0xc0 | cr << 3)});
}

TEST(MovCr0, EntersLongModeWhenPagingGoesOn) {
  Machine m;
  m.protected_mode(0);
  m.v.efer = kEferLme;
  EXPECT_EQ(move_to_cr(m, 0, kCr0Pe | kCr0Pg), Outcome::kFault);  // CR4.PAE clear
  EXPECT_EQ(m.v.fault.vector, kGP);
  m.v.cr4 = kCr4Pae;
  ASSERT_EQ(move_to_cr(m, 0, kCr0Pe | kCr0Pg), Outcome::kJump);
  EXPECT_TRUE(m.v.long_mode_active());
  EXPECT_EQ(m.v.code_mode(), CodeMode::k32);
  EXPECT_EQ(m.v.cr0, kCr0Pe | kCr0Pg | kCr0Et);
  ASSERT_EQ(move_to_cr(m, 0, kCr0Pe), Outcome::kJump);
  EXPECT_FALSE(m.v.long_mode_active());
}

TEST(MovCr0, RefusesWhatCannotBe) {
  Machine m;
  m.long_mode(0);
  for (uint64_t bad : std::initializer_list<uint64_t>{kCr0Pg, kCr0Pe | kCr0Nw, kCr0Pe | kCr0Pg | 1ull << 32, kCr0Pe}) {  // PG clear in 64-bit mode
    EXPECT_EQ(move_to_cr(m, 0, bad), Outcome::kFault) << std::hex << bad;
    EXPECT_EQ(m.v.fault.vector, kGP);
  }
  EXPECT_EQ(m.v.cr0, kCr0Pe | kCr0Pg | kCr0Et | kCr0Ne | kCr0Wp);
  m.long_mode(3);
  EXPECT_EQ(move_to_cr(m, 0, m.v.cr0), Outcome::kFault);
}

TEST(MovCr3, FlushesButForBit63WithPcid) {
  Machine m;
  m.long_mode(0);
  EXPECT_EQ(move_to_cr(m, 3, 1ull << 63 | 0x1000), Outcome::kFault);
  EXPECT_EQ(move_to_cr(m, 3, 1ull << 40), Outcome::kFault);  // beyond the physical width
  ASSERT_EQ(move_to_cr(m, 3, 0x2000), Outcome::kJump);
  EXPECT_EQ(m.address_spaces, 1u);
  EXPECT_EQ(m.flushes, 0u);  // entries of the global pages stay
  m.v.cr4 |= kCr4Pcide;
  ASSERT_EQ(move_to_cr(m, 3, 1ull << 63 | 0x3001), Outcome::kJump);
  EXPECT_EQ(m.v.cr3, 0x3001u);
  EXPECT_EQ(m.pcid_flushes, 0u);
  ASSERT_EQ(move_to_cr(m, 3, 0x3001), Outcome::kJump);
  EXPECT_EQ(m.pcid_flushes, 1u);
}

TEST(MovCr3, WithPaeLoadsThePdptes) {
  Machine m;
  m.protected_mode(0);
  m.v.cr4 = kCr4Pae;
  for (unsigned i = 0; i < 4; i++) m.poke<uint64_t>(0x6020 + i * 8, 0x1001 + i * 0x1000);
  m.v.cr3 = 0x6020;
  ASSERT_EQ(move_to_cr(m, 0, kCr0Pe | kCr0Pg), Outcome::kJump);
  EXPECT_EQ(m.v.pdpte[3], 0x4001u);
  m.poke<uint64_t>(0x6028, 0x2003);  // bit 1 is reserved
  EXPECT_EQ(move_to_cr(m, 3, 0x6020), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kGP);
}

TEST(MovCr4, HoldsToCpuidAndMode) {
  Machine m;
  m.long_mode(0);
  EXPECT_EQ(move_to_cr(m, 4, 0), Outcome::kFault);                          // PAE in long mode
  EXPECT_EQ(move_to_cr(m, 4, kCr4Pae | kCr4Vmxe), Outcome::kFault);         // no VMX
  EXPECT_EQ(move_to_cr(m, 4, kCr4Pae | kCr4La57), Outcome::kFault);         // no LA57
  m.set_feature(kCpuidLa57);
  EXPECT_EQ(move_to_cr(m, 4, kCr4Pae | kCr4La57), Outcome::kFault);         // not while in long mode
  ASSERT_EQ(move_to_cr(m, 4, kCr4Pae | kCr4Pcide), Outcome::kJump);
  ASSERT_EQ(move_to_cr(m, 4, kCr4Pae), Outcome::kJump);
  m.v.cr3 = 0x1001;
  EXPECT_EQ(move_to_cr(m, 4, kCr4Pae | kCr4Pcide), Outcome::kFault);        // PCID must be 0
  m.set_feature(kCpuidSmep, false);
  EXPECT_EQ(move_to_cr(m, 4, kCr4Pae | kCr4Smep), Outcome::kFault);
}

TEST(MovCr8, IsTheTaskPriority) {
  Machine m;
  m.long_mode(0);
  ASSERT_EQ(move_to_cr(m, 8, 9), Outcome::kNext);
  EXPECT_EQ(m.cr8, 9u);
  EXPECT_EQ(move_to_cr(m, 8, 16), Outcome::kFault);
}

TEST(MovCr, ThatIsNotThereIsUdAtAnyLevel) {
  Machine m;
  m.long_mode(3);
  m.execute({0x0f, 0x22, 0xc8});  // cr1
  EXPECT_EQ(m.v.fault.vector, kUD);
}

TEST(Lmsw, SetsPeButCannotClearIt) {
  Machine m;
  m.real_mode();
  m.v.gpr[kRax] = 1 | 8;
  ASSERT_NE(m.execute({0x0f, 0x01, 0xf0}), Outcome::kFault);
  EXPECT_TRUE(m.v.protected_mode());
  EXPECT_TRUE(m.v.cr0 & kCr0Ts);
  m.v.gpr[kRax] = 0;
  ASSERT_NE(m.execute({0x0f, 0x01, 0xf0}), Outcome::kFault);
  EXPECT_TRUE(m.v.protected_mode());
  EXPECT_FALSE(m.v.cr0 & kCr0Ts);
}

TEST(DebugRegisters, AliasesAndChecks) {
  Machine m;
  m.long_mode(0);
  m.v.gpr[kRax] = 0x12345678;
  ASSERT_EQ(m.execute({0x0f, 0x23, 0xe0}), Outcome::kNext);  // dr4 is dr6
  EXPECT_EQ(m.v.dr6, (0x12345678u & 0xe00f) | 0xffff0ff0);
  m.v.cr4 |= kCr4De;
  m.execute({0x0f, 0x23, 0xe0});
  EXPECT_EQ(m.v.fault.vector, kUD);
  m.v.gpr[kRax] = 1ull << 32;
  EXPECT_EQ(m.execute({0x0f, 0x23, 0xf8}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kGP);
  m.v.gpr[kRax] = 0x2000;  // GD
  ASSERT_EQ(m.execute({0x0f, 0x23, 0xf8}), Outcome::kJump);
  EXPECT_EQ(m.execute({0x0f, 0x21, 0xc0}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kDB);
  EXPECT_EQ(m.v.fault.payload, 0x2000u);
}

TEST(Popf, FollowsPrivilege) {
  constexpr uint64_t kAll = kStatusFlags | kTF | kIF | kDF | kIOPL | kNT | kRF | kVM | kAC | kVIF | kVIP | kID;
  struct Case {
    unsigned cpl, iopl;
    uint64_t expected;
  };
  const uint64_t kCommon = kStatusFlags | kTF | kDF | kNT | kAC | kID | 2;
  const Case kCases[] = {{0, 0, kCommon | kIF | kIOPL}, {3, 0, kCommon}, {3, 3, kCommon | kIF | kIOPL}};
  for (const Case& c : kCases) {
    Machine m;
    m.long_mode(c.cpl);
    m.v.set_rflags(c.iopl << 12 | kRF | 2);
    ASSERT_EQ(popf(m.v, kAll, 8), Outcome::kNext);
    EXPECT_EQ(m.v.rflags(), c.expected) << c.cpl << c.iopl;
  }
  Machine m;
  m.long_mode(0);
  m.v.set_rflags(kAC | kID | 2);
  popf(m.v, 0, 2);  // 16 bits leave the upper half
  EXPECT_EQ(m.v.rflags(), kAC | kID | 2);
}

TEST(Popf, InVm86) {
  Machine m;
  m.vm86_mode(0);
  EXPECT_EQ(popf(m.v, 0, 2), Outcome::kFault);
  m.v.cr4 = kCr4Vme;
  ASSERT_EQ(popf(m.v, kIF, 2), Outcome::kNext);
  EXPECT_TRUE(m.v.system_flags & kVIF);
  EXPECT_EQ(popf(m.v, kTF, 2), Outcome::kFault);
  m.v.system_flags |= kVIP;
  EXPECT_EQ(popf(m.v, kIF, 2), Outcome::kFault);
  EXPECT_EQ(popf(m.v, 0, 4), Outcome::kFault);
  uint64_t image;
  ASSERT_EQ(pushf_image(m.v, 2, image), Outcome::kNext);
  EXPECT_EQ(image, kIF | 0x3000u | 2);
}

TEST(CliSti, FollowIoplPviAndVme) {
  Machine m;
  m.protected_mode(3);
  EXPECT_EQ(m.execute({0xfa}), Outcome::kFault);
  m.v.cr4 = kCr4Pvi;
  ASSERT_EQ(m.execute({0xfb}), Outcome::kNext);
  EXPECT_TRUE(m.v.system_flags & kVIF);
  EXPECT_TRUE(m.v.system_flags & kIF);
  ASSERT_EQ(m.execute({0xfa}), Outcome::kNext);
  EXPECT_FALSE(m.v.system_flags & kVIF);
  m.v.system_flags |= kVIP;
  EXPECT_EQ(m.execute({0xfb}), Outcome::kFault);
  m.protected_mode(0);
  ASSERT_EQ(m.execute({0xfb}), Outcome::kNext);
  EXPECT_FALSE(m.v.interrupt_shadow_sti);  // IF was set
  ASSERT_EQ(m.execute({0xfa}), Outcome::kNext);
  ASSERT_EQ(m.execute({0xfb}), Outcome::kNext);
  EXPECT_TRUE(m.v.interrupt_shadow_sti);
}

TEST(Ports, ArePermittedByIoplOrTheBitmap) {
  Machine m;
  m.protected_mode(3);
  m.v.gpr[kRdx] = 0x3f8;
  EXPECT_EQ(m.execute({0xec}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kGP);
  m.v.tr.limit = 104 + 0x80;
  m.poke<uint16_t>(Machine::kTss + 102, 104);
  m.port_value = 0x5a;
  ASSERT_EQ(m.execute({0xec}), Outcome::kNext);
  EXPECT_EQ(m.v.gpr[kRax] & 0xff, 0x5au);
  m.poke<uint8_t>(Machine::kTss + 104 + 0x7f, 2);  // port 0x3f9
  EXPECT_EQ(m.execute({0xec}), Outcome::kNext);
  EXPECT_EQ(m.execute({0x66, 0xed}), Outcome::kFault);  // a word touches it
  m.v.system_flags |= kIOPL;
  ASSERT_EQ(m.execute({0xed}), Outcome::kNext);
  EXPECT_EQ(m.ports.back(), "in4 1016");
  m.v.gpr[kRax] = 0x1234;
  ASSERT_EQ(m.execute({0xe6, 0x80}), Outcome::kNext);
  EXPECT_EQ(m.ports.back(), "out1 128 52");
}

TEST(Xsetbv, ChecksComponents) {
  Machine m;
  m.long_mode(0);
  auto xsetbv = [&](uint64_t value) {
    m.v.gpr[kRcx] = 0;
    m.v.gpr[kRax] = static_cast<uint32_t>(value);
    m.v.gpr[kRdx] = value >> 32;
    return m.execute({0x0f, 0x01, 0xd1});
  };
  EXPECT_EQ(xsetbv(7), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kUD);  // CR4.OSXSAVE clear
  m.v.cr4 |= kCr4Osxsave;
  EXPECT_EQ(xsetbv(7), Outcome::kJump);
  EXPECT_EQ(m.v.xcr0, 7u);
  EXPECT_EQ(xsetbv(0xe7), Outcome::kJump);
  for (uint64_t bad : {0ull, 2ull, 5ull, 0x27ull, 0xe3ull, 0x207ull, 1ull << 62 | 7}) EXPECT_EQ(xsetbv(bad), Outcome::kFault) << std::hex << bad;
  EXPECT_EQ(m.v.xcr0, 0xe7u);
}

TEST(Pkru, NeedsItsRegistersZero) {
  Machine m;
  m.long_mode(3);
  EXPECT_EQ(m.execute({0x0f, 0x01, 0xef}), Outcome::kFault);
  m.v.cr4 |= kCr4Pke;
  m.v.gpr[kRax] = 0x55, m.v.gpr[kRcx] = m.v.gpr[kRdx] = 0;
  ASSERT_EQ(m.execute({0x0f, 0x01, 0xef}), Outcome::kJump);
  EXPECT_EQ(m.v.pkru, 0x55u);
  m.v.gpr[kRdx] = 1;
  EXPECT_EQ(m.execute({0x0f, 0x01, 0xef}), Outcome::kFault);
  m.v.gpr[kRdx] = 7, m.v.gpr[kRax] = 0;
  ASSERT_EQ(m.execute({0x0f, 0x01, 0xee}), Outcome::kNext);
  EXPECT_EQ(m.v.gpr[kRax], 0x55u);
  EXPECT_EQ(m.v.gpr[kRdx], 0u);
}

TEST(Invpcid, ChecksItsDescriptor) {
  Machine m;
  m.long_mode(0);
  m.v.gpr[kRbx] = 0x6000;
  auto invpcid = [&](uint64_t type, uint64_t pcid, uint64_t linear) {
    m.v.gpr[kRax] = type;
    m.poke(0x6000, pcid);
    m.poke(0x6008, linear);
    return m.execute({0x66, 0x0f, 0x38, 0x82, 0x03});
  };
  EXPECT_EQ(invpcid(4, 0, 0), Outcome::kFault);
  EXPECT_EQ(invpcid(2, 0x1000, 0), Outcome::kFault);
  EXPECT_EQ(invpcid(0, 1, 0), Outcome::kFault);  // PCIDs are off
  EXPECT_EQ(invpcid(0, 0, 0x800000000000), Outcome::kFault);
  EXPECT_EQ(invpcid(0, 0, 0x1000), Outcome::kJump);
  EXPECT_EQ(m.page_flushes, 1u);
  EXPECT_EQ(invpcid(2, 0, 0), Outcome::kJump);
  EXPECT_FALSE(m.last_keep_global);
  m.v.cr4 |= kCr4Pcide;
  EXPECT_EQ(invpcid(1, 5, 0), Outcome::kJump);
  EXPECT_EQ(m.pcid_flushes, 1u);
}

TEST(Invlpg, NonCanonicalIsANop) {
  Machine m;
  m.long_mode(0);
  m.v.gpr[kRax] = 0x800000000000;
  EXPECT_EQ(m.execute({0x0f, 0x01, 0x38}), Outcome::kNext);
  EXPECT_EQ(m.page_flushes, 0u);
  m.v.gpr[kRax] = 0x1000;
  EXPECT_EQ(m.execute({0x0f, 0x01, 0x38}), Outcome::kJump);
  EXPECT_EQ(m.page_flushes, 1u);
}

TEST(Privileged, InstructionsFaultInUserMode) {
  const std::vector<uint8_t> kList[] = {{0xf4}, {0x0f, 0x06}, {0x0f, 0x08}, {0x0f, 0x09}, {0x0f, 0x30}, {0x0f, 0x32},
                                        {0x0f, 0x33}, {0x0f, 0x01, 0x38}, {0x0f, 0x20, 0xc0}, {0x0f, 0x21, 0xc0}, {0xfa}};
  for (const auto& bytes : kList) {
    Machine m;
    m.long_mode(3);
    EXPECT_EQ(m.execute(bytes), Outcome::kFault) << std::hex << int(bytes.back());
    EXPECT_EQ(m.v.fault.vector, kGP) << std::hex << int(bytes.back());
    EXPECT_EQ(m.v.rip, Machine::kCode);
  }
}

TEST(Undefined, VmxAndSvmAreNotThere) {
  const std::vector<uint8_t> kList[] = {{0x0f, 0x01, 0xc2}, {0x0f, 0x01, 0xd8}, {0x0f, 0x78, 0xc0}, {0x0f, 0xc7, 0x30}, {0x0f, 0x0b}, {0x0f, 0xaa}};
  for (const auto& bytes : kList) {
    Machine m;
    m.long_mode(0);
    EXPECT_EQ(m.execute(bytes), Outcome::kFault);
    EXPECT_EQ(m.v.fault.vector, kUD);
  }
}

TEST(Hlt, WaitsBehindItself) {
  Machine m;
  m.long_mode(0);
  EXPECT_EQ(m.execute({0xf4}), Outcome::kHalt);
  EXPECT_EQ(m.v.rip, Machine::kCode + 1);
  EXPECT_TRUE(m.v.halted);
}

TEST(Rdtsc, CanBeKeptFromUsers) {
  Machine m;
  m.long_mode(3);
  m.tsc = 0x1234567890;
  m.v.msr.tsc_aux = 7;
  ASSERT_EQ(m.execute({0x0f, 0x01, 0xf9}), Outcome::kNext);
  EXPECT_EQ(m.v.gpr[kRax], 0x34567890u);
  EXPECT_EQ(m.v.gpr[kRdx], 0x12u);
  EXPECT_EQ(m.v.gpr[kRcx], 7u);
  m.v.cr4 |= kCr4Tsd;
  EXPECT_EQ(m.execute({0x0f, 0x31}), Outcome::kFault);
}

TEST(Bound, ComparesSigned) {
  Machine m;
  m.protected_mode(0);
  m.v.gpr[kRbx] = 0x6000;
  m.poke<int32_t>(0x6000, -5);
  m.poke<int32_t>(0x6004, 5);
  for (int32_t index : {-6, -5, 0, 5, 6}) {
    m.v.gpr[kRax] = static_cast<uint32_t>(index);
    bool inside = index >= -5 && index <= 5;
    EXPECT_EQ(m.execute({0x62, 0x03}), inside ? Outcome::kNext : Outcome::kFault) << index;
    if (!inside) { EXPECT_EQ(m.v.fault.vector, kBR); }
  }
}

TEST(Vmcall, AnswersTheKernelOnly) {
  Machine m;
  m.long_mode(0);
  m.v.gpr[kRax] = 5, m.v.gpr[kRbx] = 6;
  ASSERT_EQ(m.execute({0x0f, 0x01, 0xc1}), Outcome::kNext);
  EXPECT_EQ(m.v.gpr[kRax], 11u);
  m.v.disabled_quirks = 1 << 5;
  EXPECT_EQ(m.execute({0x0f, 0x01, 0xd9}), Outcome::kFault);  // the other vendor's
  m.long_mode(3);
  ASSERT_EQ(m.execute({0x0f, 0x01, 0xc1}), Outcome::kNext);
  EXPECT_EQ(static_cast<int64_t>(m.v.gpr[kRax]), -1);  // -KVM_EPERM
}

TEST(Reset, IsThatOfTheManual) {
  Machine m;
  m.long_mode(3);
  m.v.msr.lstar = 5;
  m.v.msr.tsc_offset = 77;
  reset_cpu(m.v);
  EXPECT_EQ(m.v.rip, 0xfff0u);
  EXPECT_EQ(m.v.segment[kCS].base, 0xffff0000u);
  EXPECT_EQ(m.v.segment[kCS].selector, 0xf000);
  EXPECT_EQ(m.v.cr0, 0x60000010u);
  EXPECT_EQ(m.v.rflags(), 2u);
  EXPECT_EQ(m.v.dr6, 0xffff0ff0u);
  EXPECT_EQ(m.v.dr7, 0x400u);
  EXPECT_EQ(m.v.efer, 0u);
  EXPECT_EQ(m.v.gdtr.limit, 0xffff);
  EXPECT_EQ(m.v.msr.lstar, 0u);
  EXPECT_EQ(m.v.msr.pat, 0x0007040600070406u);
  m.v.msr.lstar = 5;
  m.v.msr.steal_time = m.v.msr.system_time = 0x1001;
  m.v.xcr0 = 7;
  m.v.cr0 = kCr0Pe;
  init_cpu(m.v);
  EXPECT_EQ(m.v.msr.lstar, 5u);
  EXPECT_EQ(m.v.msr.steal_time | m.v.msr.system_time, 0u);  // the kernel's KVM stops to write there
  EXPECT_EQ(m.v.xcr0, 7u);
  EXPECT_EQ(m.v.cr0, 0x10u);  // CD and NW stay as they were
}

}  // namespace
}  // namespace vireo::softkvm
