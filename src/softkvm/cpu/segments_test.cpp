// SPDX-License-Identifier: Apache-2.0
// Segment registers and descriptor tables. Expected faults: Intel SDM vol 2, MOV (protected mode exceptions), LAR, LSL, VERR, LLDT, LTR.
#include <gtest/gtest.h>

#include "softkvm/cpu/system_fake.h"

namespace vireo::softkvm {
namespace {

TEST(LoadSegment, ChecksTypesAndPrivilege) {
  struct Case {
    SegmentRegister which;
    uint16_t access;  // of descriptor 8
    unsigned rpl, cpl;
    int vector;  // -1: loads
  };
  const Case kCases[] = {
      {kDS, 0x93, 0, 0, -1}, {kDS, 0x91, 0, 0, -1},  // writable and read-only data
      {kDS, 0x9b, 0, 0, -1}, {kDS, 0x99, 0, 0, kGP},  // readable and execute-only code
      {kDS, 0x93, 3, 0, kGP}, {kDS, 0x93, 3, 3, kGP}, {kDS, 0xf3, 3, 3, -1}, {kDS, 0xf3, 0, 3, -1},
      {kDS, 0x9f, 3, 3, -1},  // conforming readable code: at any level
      {kDS, 0x13, 0, 0, kNP}, {kDS, 0x82, 0, 0, kGP},  // absent; an LDT
      {kSS, 0x93, 0, 0, -1}, {kSS, 0x91, 0, 0, kGP}, {kSS, 0x9b, 0, 0, kGP}, {kSS, 0xf3, 3, 0, kGP}, {kSS, 0xf3, 3, 3, -1},
      {kSS, 0xf3, 0, 3, kGP}, {kSS, 0x13, 0, 0, kSSv}, {kFS, 0x93, 0, 0, -1}, {kGS, 0x97, 0, 0, -1},
  };
  for (const Case& c : kCases) {
    Machine m;
    m.protected_mode(c.cpl);
    m.set_gdt(8, Machine::descriptor(0x12345678, 0xabcde, static_cast<uint16_t>(0x4000 | c.access)));
    Segment before = m.v.segment[c.which];
    uint16_t selector = static_cast<uint16_t>(0x40 | c.rpl);
    Outcome o = load_segment(m.v, c.which, selector);
    if (c.vector < 0) {
      EXPECT_EQ(o, Outcome::kNext) << std::hex << c.access;
      EXPECT_EQ(m.v.segment[c.which].base, 0x12345678u);
      EXPECT_EQ(m.v.segment[c.which].limit, 0xabcdeu);
      EXPECT_EQ(m.v.segment[c.which].selector, selector);
    } else {
      EXPECT_EQ(o, Outcome::kFault) << std::hex << c.access;
      EXPECT_EQ(m.v.fault.vector, c.vector) << std::hex << c.access;
      EXPECT_EQ(m.v.fault.error, 0x40u);
      EXPECT_EQ(m.v.segment[c.which].selector, before.selector);
    }
  }
}

TEST(LoadSegment, NullSelectors) {
  Machine m;
  m.protected_mode(0);
  EXPECT_EQ(load_segment(m.v, kDS, 3), Outcome::kNext);
  EXPECT_TRUE(m.v.segment[kDS].unusable);
  EXPECT_EQ(m.v.segment[kDS].selector, 3);
  EXPECT_EQ(load_segment(m.v, kSS, 0), Outcome::kFault);
  m.long_mode(0);
  EXPECT_EQ(load_segment(m.v, kSS, 0), Outcome::kNext);
  EXPECT_EQ(load_segment(m.v, kSS, 3), Outcome::kFault);  // RPL
  m.long_mode(3);
  EXPECT_EQ(load_segment(m.v, kSS, 3), Outcome::kFault);
}

TEST(LoadSegment, NullFsClearsTheBaseOnIntelKeepsItOnAmd) {
  Machine m;
  m.long_mode(0);
  m.v.segment[kFS].base = 0x7000;
  load_segment(m.v, kFS, 0);
  EXPECT_EQ(m.v.segment[kFS].base, 0u);
  m.v.vendor_is_amd = true;
  m.v.segment[kFS].base = 0x7000;
  load_segment(m.v, kFS, 0);  // this CPUID has NullSelectorClearsBase
  EXPECT_EQ(m.v.segment[kFS].base, 0u);
  m.set_feature(kCpuidNullSelectorClearsBase, false);
  m.v.segment[kFS].base = 0x7000;
  load_segment(m.v, kFS, 0);
  EXPECT_EQ(m.v.segment[kFS].base, 0x7000u);
}

TEST(LoadSegment, SetsTheAccessedBit) {
  Machine m;
  m.protected_mode(0);
  m.set_gdt(8, Machine::descriptor(0, 0xfffff, 0xc092));
  ASSERT_EQ(load_segment(m.v, kES, 0x40), Outcome::kNext);
  EXPECT_EQ(m.peek<uint8_t>(Machine::kGdt + 0x45), 0x93);
  EXPECT_EQ(m.v.segment[kES].access, 0xc093);
}

TEST(LoadSegment, BeyondTheTableOrInNoLdtIsGp) {
  Machine m;
  m.protected_mode(0);
  for (uint16_t selector : {0x80, 0x7c}) {
    EXPECT_EQ(load_segment(m.v, kES, selector), Outcome::kFault);
    EXPECT_EQ(m.v.fault.error, selector);
  }
}

TEST(LoadSegment, UnrealModeKeepsTheLimit) {
  Machine m;
  m.protected_mode(0);
  load_segment(m.v, kES, 0x10);
  m.v.cr0 &= ~kCr0Pe;
  ASSERT_EQ(load_segment(m.v, kES, 0x1234), Outcome::kNext);
  EXPECT_EQ(m.v.segment[kES].base, 0x12340u);
  EXPECT_EQ(m.v.segment[kES].limit, 0xffffffffu);
}

TEST(MovSs, OpensTheInterruptShadow) {
  Machine m;
  m.protected_mode(0);
  m.v.gpr[kRax] = 0x10;
  ASSERT_NE(m.execute({0x8e, 0xd0}), Outcome::kFault);
  EXPECT_TRUE(m.v.interrupt_shadow_mov_ss);
  EXPECT_EQ(m.execute({0x8e, 0xc8}), Outcome::kFault);  // mov cs
  EXPECT_EQ(m.v.fault.vector, kUD);
}

TEST(PushPopSegment, MovesBySizeAndWritesTheSelectorAlone) {
  Machine m;
  m.protected_mode(0);
  m.poke<uint32_t>(Machine::kStack - 4, 0xffffffff);
  ASSERT_EQ(m.execute({0x1e}), Outcome::kNext);
  EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack - 4);
  EXPECT_EQ(m.peek<uint32_t>(Machine::kStack - 4), 0xffff0023u);
  ASSERT_EQ(m.execute({0x07}), Outcome::kNext);
  EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack);
  EXPECT_EQ(m.v.segment[kES].selector, 0x23);
  m.long_mode(0);
  ASSERT_EQ(m.execute({0x0f, 0xa0}), Outcome::kNext);
  EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack - 8);
}

TEST(PopSegment, AFaultLeavesRsp) {
  Machine m;
  m.protected_mode(0);
  m.poke<uint32_t>(Machine::kStack, 0x100);
  EXPECT_EQ(m.execute({0x1f}), Outcome::kFault);
  EXPECT_EQ(m.v.gpr[kRsp], Machine::kStack);
}

TEST(Lss, LoadsSegmentAndOffset) {
  Machine m;
  m.protected_mode(0);
  m.v.gpr[kRbx] = 0x6000;
  m.poke<uint32_t>(0x6000, 0x12345678);
  m.poke<uint16_t>(0x6004, 0x10);
  ASSERT_NE(m.execute({0x0f, 0xb2, 0x23}), Outcome::kFault);
  EXPECT_EQ(m.v.gpr[kRsp], 0x12345678u);
  EXPECT_EQ(m.v.segment[kSS].selector, 0x10);
}

TEST(Lgdt, TakesItsWidthFromTheMode) {
  Machine m;
  m.long_mode(0);
  m.poke<uint16_t>(0x6000, 0x7f);
  m.poke<uint64_t>(0x6002, 0xfffffe0000001000);
  m.v.gpr[kRbx] = 0x6000;
  ASSERT_EQ(m.execute({0x0f, 0x01, 0x13}), Outcome::kNext);
  EXPECT_EQ(m.v.gdtr.base, 0xfffffe0000001000u);
  EXPECT_EQ(m.v.gdtr.limit, 0x7f);
  m.poke<uint64_t>(0x6002, 0x0001000000000000);
  EXPECT_EQ(m.execute({0x0f, 0x01, 0x1b}), Outcome::kFault);  // non-canonical
  m.real_mode();
  m.v.segment[kDS].base = 0;
  m.v.gpr[kRbx] = 0x6000;
  m.poke<uint32_t>(0x6002, 0x12345678);
  ASSERT_EQ(m.execute({0x0f, 0x01, 0x17}), Outcome::kNext);  // [bx]: 24 bits
  EXPECT_EQ(m.v.gdtr.base, 0x345678u);
  m.long_mode(3);
  EXPECT_EQ(m.execute({0x0f, 0x01, 0x13}), Outcome::kFault);
}

TEST(Sgdt, IsKeptFromUsersByUmip) {
  Machine m;
  m.long_mode(3);
  m.v.gpr[kRbx] = 0x6000;
  ASSERT_EQ(m.execute({0x0f, 0x01, 0x03}), Outcome::kNext);
  EXPECT_EQ(m.peek<uint16_t>(0x6000), 0x7f);
  EXPECT_EQ(m.peek<uint64_t>(0x6002), Machine::kGdt);
  m.v.cr4 |= kCr4Umip;
  for (std::vector<uint8_t> bytes : {std::vector<uint8_t>{0x0f, 0x01, 0x03}, {0x0f, 0x01, 0x0b}, {0x0f, 0x01, 0xe0}, {0x0f, 0x00, 0xc0}, {0x0f, 0x00, 0xc8}}) {
    EXPECT_EQ(m.execute(bytes), Outcome::kFault);
    EXPECT_EQ(m.v.fault.vector, kGP);
  }
}

TEST(Ltr, LoadsA16ByteDescriptorAndMarksItBusy) {
  Machine m;
  m.long_mode(0);
  m.set_gdt(7, 0xffffff00);
  m.v.gpr[kRax] = 0x30;
  ASSERT_EQ(m.execute({0x0f, 0x00, 0xd8}), Outcome::kNext);
  EXPECT_EQ(m.v.tr.base, 0xffffff0000003000u & 0xffffff00ffffffffu);
  EXPECT_EQ(m.v.tr.type(), 11u);
  EXPECT_EQ(m.peek<uint8_t>(Machine::kGdt + 0x35), 0x8b);
  EXPECT_EQ(m.execute({0x0f, 0x00, 0xd8}), Outcome::kFault);  // busy now
  EXPECT_EQ(m.v.fault.vector, kGP);
  EXPECT_EQ(m.v.fault.error, 0x30u);
}

TEST(Lldt, AcceptsNullAndLdtsAlone) {
  Machine m;
  m.protected_mode(0);
  m.set_gdt(8, Machine::descriptor(Machine::kLdt, 0x17, 0x82));
  m.v.gpr[kRax] = 0x40;
  ASSERT_EQ(m.execute({0x0f, 0x00, 0xd0}), Outcome::kNext);
  m.poke(Machine::kLdt + 8, Machine::descriptor(0x777000, 0xfff, 0x93));
  ASSERT_EQ(load_segment(m.v, kES, 0x0c), Outcome::kNext);
  EXPECT_EQ(m.v.segment[kES].base, 0x777000u);
  m.v.gpr[kRax] = 0x10;
  EXPECT_EQ(m.execute({0x0f, 0x00, 0xd0}), Outcome::kFault);
  m.v.gpr[kRax] = 0;
  ASSERT_EQ(m.execute({0x0f, 0x00, 0xd0}), Outcome::kNext);
  EXPECT_TRUE(m.v.ldtr.unusable);
  m.real_mode();
  EXPECT_EQ(m.execute({0x0f, 0x00, 0xd0}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kUD);
}

TEST(LarLsl, ByDescriptorType) {
  struct Case {
    uint16_t access;
    bool lar, lsl, lar64, lsl64;
  };
  const Case kCases[] = {  // SDM vol 2, tables 3-52 and 3-58
      {0x81, true, true, false, false}, {0x82, true, true, true, true}, {0x83, true, true, false, false}, {0x84, true, false, false, false},
      {0x85, true, false, false, false}, {0x86, false, false, false, false}, {0x87, false, false, false, false}, {0x89, true, true, true, true},
      {0x8b, true, true, true, true}, {0x8c, true, false, true, false}, {0x8e, false, false, false, false}, {0x8f, false, false, false, false},
      {0x93, true, true, true, true}, {0x9b, true, true, true, true},
  };
  for (const Case& c : kCases)
    for (bool wide : {false, true}) {
      Machine m;
      wide ? m.long_mode(0) : m.protected_mode(0);
      m.set_gdt(8, Machine::descriptor(0, 0x12345, static_cast<uint16_t>(0x8000 | c.access)));
      m.v.gpr[kRbx] = 0x40;
      m.v.gpr[kRax] = 0x55;
      ASSERT_EQ(m.execute({0x0f, 0x02, 0xc3}), Outcome::kNext);
      bool expected = wide ? c.lar64 : c.lar;
      EXPECT_EQ(bool(m.v.flag_ah & kZF), expected) << std::hex << c.access << wide;
      EXPECT_EQ(m.v.gpr[kRax], expected ? 0x810000u | static_cast<uint32_t>(c.access) << 8 : 0x55u);
      ASSERT_EQ(m.execute({0x0f, 0x03, 0xc3}), Outcome::kNext);
      expected = wide ? c.lsl64 : c.lsl;
      EXPECT_EQ(bool(m.v.flag_ah & kZF), expected) << std::hex << c.access << wide;
      if (expected) { EXPECT_EQ(m.v.gpr[kRax], 0x12345fffu); }
    }
}

TEST(Verr, AndVerw) {
  Machine m;
  m.protected_mode(3);
  auto zf = [&](std::vector<uint8_t> bytes, uint16_t selector) {
    m.v.gpr[kRax] = selector;
    EXPECT_EQ(m.execute(bytes), Outcome::kNext);
    return bool(m.v.flag_ah & kZF);
  };
  EXPECT_TRUE(zf({0x0f, 0x00, 0xe0}, 0x23));
  EXPECT_TRUE(zf({0x0f, 0x00, 0xe8}, 0x23));
  EXPECT_FALSE(zf({0x0f, 0x00, 0xe8}, 0x1b));  // code is not writable
  EXPECT_FALSE(zf({0x0f, 0x00, 0xe0}, 0x10));  // privilege
  EXPECT_FALSE(zf({0x0f, 0x00, 0xe0}, 0));
  EXPECT_FALSE(zf({0x0f, 0x00, 0xe0}, 0xfff8));
}

TEST(Arpl, RaisesTheRpl) {
  Machine m;
  m.protected_mode(0);
  m.v.gpr[kRax] = 0x10, m.v.gpr[kRbx] = 0x1b;
  ASSERT_EQ(m.execute({0x63, 0xd8}), Outcome::kNext);
  EXPECT_EQ(m.v.gpr[kRax], 0x13u);
  EXPECT_TRUE(m.v.flag_ah & kZF);
  ASSERT_EQ(m.execute({0x63, 0xd8}), Outcome::kNext);
  EXPECT_FALSE(m.v.flag_ah & kZF);
}

TEST(FsGsBase, AndSwapgs) {
  Machine m;
  m.long_mode(0);
  EXPECT_EQ(m.execute({0xf3, 0x48, 0x0f, 0xae, 0xd0}), Outcome::kFault);  // CR4.FSGSBASE clear
  EXPECT_EQ(m.v.fault.vector, kUD);
  m.v.cr4 |= kCr4Fsgsbase;
  m.v.gpr[kRax] = 0xffff800000001000;
  ASSERT_EQ(m.execute({0xf3, 0x48, 0x0f, 0xae, 0xd0}), Outcome::kNext);  // wrfsbase rax
  EXPECT_EQ(m.v.segment[kFS].base, 0xffff800000001000u);
  EXPECT_EQ(m.v.seg_base_fs_copy, 0xffff800000001000u);
  ASSERT_EQ(m.execute({0xf3, 0x0f, 0xae, 0xc3}), Outcome::kNext);  // rdfsbase ebx
  EXPECT_EQ(m.v.gpr[kRbx], 0x1000u);
  m.v.gpr[kRax] = 0x0000800000000000;
  EXPECT_EQ(m.execute({0xf3, 0x48, 0x0f, 0xae, 0xd8}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kGP);
  m.v.msr.kernel_gs_base = 0x1111, m.v.segment[kGS].base = 0x2222;
  ASSERT_EQ(m.execute({0x0f, 0x01, 0xf8}), Outcome::kNext);
  EXPECT_EQ(m.v.segment[kGS].base, 0x1111u);
  EXPECT_EQ(m.v.seg_base_gs_copy, 0x1111u);
  EXPECT_EQ(m.v.msr.kernel_gs_base, 0x2222u);
  m.long_mode(3);
  EXPECT_EQ(m.execute({0x0f, 0x01, 0xf8}), Outcome::kFault);
}

}  // namespace
}  // namespace vireo::softkvm
