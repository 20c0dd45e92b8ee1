// SPDX-License-Identifier: Apache-2.0
// The end of CS inside of a page. Spec: SDM vol 3, 5.3 and 6.15 (#GP): what is fetched beyond the limit faults before its instruction begins, at that instruction;
// SDM vol 2, JMP, Jcc, LOOP: a branch beyond the limit faults at the branch. An AMD CPU (family 26) does all of this so in segments of an LDT.
#include <gtest/gtest.h>

#include "softkvm/translate/engine.h"
#include "softkvm/translate/fault_machine.h"

namespace vireo::softkvm {
namespace {

constexpr uint8_t kNop = 0x90;

class LimitMachine : public FaultMachine {
 public:
  explicit LimitMachine(uint32_t limit, uint32_t base = 0) { set_code(limit, base); }
  void set_code(uint32_t limit, uint32_t base = 0) {
    vcpu->segment[kCS] = Segment{base, limit, 0x1b, static_cast<uint16_t>(narrow_more ? 0xfb : 0x40fb), false};
    vcpu->state_changed();
  }
  // Code at a linear address, among NOPs.
  void put(uint64_t at, std::span<const uint8_t> code) {
    memset(ram + kCode, kNop, 0x11000);
    memcpy(ram + at, code.data(), code.size());
    vm->notice_write(ram + kCode, 0x11000);
  }
  // Runs from `eip`; where its #GP has left EIP.
  uint64_t fault_from(uint64_t eip) {
    vcpu->rip = eip;
    engine_of(*vcpu).step_next = step;  // the first instruction runs in step mode
    vcpu->state_changed();
    EXPECT_EQ(go(), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(vcpu->rip, kHandlers + kGP * 16 + 1);
    const uint64_t found = at(vcpu->gpr[kRsp] + 8), flags = at(vcpu->gpr[kRsp] + 24);
    // As IRET does.
    vcpu->gpr[kRsp] = at(vcpu->gpr[kRsp] + 32);
    vcpu->cpl = 3;
    vcpu->segment[kSS] = Segment{0, 0xffffffff, 0x23, 0xc0f3, false};
    vcpu->set_rflags(flags & ~0x10000ull);
    set_code(vcpu->segment[kCS].limit);
    return found;
  }
  uint64_t fault_of(uint64_t at, std::span<const uint8_t> code, uint32_t limit, uint32_t base = 0) {
    put(base + at, code);
    set_code(limit, base);
    return fault_from(at);
  }
  bool step = false, narrow_more = false;  // 16-bit code
};

constexpr uint32_t kLimit = TestMachine::kCode + 0x7ff;
constexpr uint64_t kPage = TestMachine::kCode;

GUEST_CODE(limit_nothing, "nop")
GUEST_CODE(limit_constant, ".byte 0xb8, 0x78, 0x56, 0x34, 0x12")  // mov eax, 0x12345678
TEST(CodeLimit, FallingThroughItFaultsAtTheInstructionBeyond) {
  for (bool step : {false, true}) {
    LimitMachine m(kLimit);
    m.step = step;
    EXPECT_EQ(m.fault_of(kPage + 0x7f0, limit_nothing(), kLimit), kPage + 0x800);
    EXPECT_EQ(m.fault_of(kPage + 0x7ff, limit_nothing(), kLimit), kPage + 0x800);
    EXPECT_EQ(m.fault_of(kPage + 0x800, limit_nothing(), kLimit), kPage + 0x800);
  }
}
TEST(CodeLimit, AnInstructionPartlyBeyondItIsNotBegun) {
  for (bool step : {false, true}) {
    LimitMachine m(kLimit);
    m.step = step;
    for (unsigned in = 1; in <= 5; in++) {
      m.vcpu->gpr[kRax] = 5;
      const uint64_t at = kPage + 0x800 - in;
      EXPECT_EQ(m.fault_of(at, limit_constant(), kLimit), in == 5 ? kPage + 0x800 : at) << in;
      EXPECT_EQ(m.vcpu->gpr[kRax], in == 5 ? 0x12345678u : 5u) << in;
    }
  }
}

GUEST_CODE(limit_jump, ".byte 0xeb, 0x1e")
GUEST_CODE(limit_jump_if, ".byte 0x39, 0xc0, 0x74, 0x1e")       // cmp eax, eax; je
GUEST_CODE(limit_jump_if_not, ".byte 0x39, 0xc0, 0x75, 0x1e")   // cmp eax, eax; jne
GUEST_CODE(limit_loop, ".byte 0xe2, 0x1e")
GUEST_CODE(limit_rcx_zero, ".byte 0x31, 0xc9, 0xe3, 0x1e")      // xor ecx, ecx; jecxz
GUEST_CODE(limit_call, ".byte 0xe8, 0x20, 0, 0, 0")
GUEST_CODE(limit_far_jump, ".byte 0xe9, 0, 0x20, 0, 0")         // to another page
GUEST_CODE(limit_far_jump_if, ".byte 0x39, 0xc0, 0x0f, 0x84, 0, 0x20, 0, 0")
TEST(CodeLimit, ABranchBeyondItFaultsAtTheBranch) {
  for (bool step : {false, true}) {
    LimitMachine m(kLimit);
    m.step = step;
    for (uint64_t at : {kPage + 0x7f0, kPage + 0x7f8, kPage + 0x7e8}) {
      m.vcpu->gpr[kRcx] = 7;
      m.vcpu->gpr[kRsp] = TestMachine::kStackTop;
      EXPECT_EQ(m.fault_of(at, limit_jump(), kLimit), at);
      EXPECT_EQ(m.fault_of(at, limit_jump_if(), kLimit), at + 2);
      EXPECT_EQ(m.fault_of(at, limit_jump_if_not(), kLimit), kPage + 0x800);
      EXPECT_EQ(m.fault_of(at, limit_loop(), kLimit), at);
      EXPECT_EQ(m.vcpu->gpr[kRcx], 7u);
      EXPECT_EQ(m.fault_of(at, limit_far_jump(), kLimit), at);
      EXPECT_EQ(m.fault_of(at, limit_far_jump_if(), kLimit), at + 2);
      EXPECT_EQ(m.fault_of(at, limit_call(), kLimit), at);
      EXPECT_EQ(m.vcpu->gpr[kRsp], TestMachine::kStackTop);
      EXPECT_EQ(m.fault_of(at, limit_rcx_zero(), kLimit), at + 2);
    }
  }
}

// From a page all of which lies within the limit, to one that has none of it.
TEST(CodeLimit, ABranchToAnotherPageFaultsAtTheBranch) {
  LimitMachine m(kPage + 0xfff);
  EXPECT_EQ(m.fault_of(kPage + 0x10, limit_far_jump(), kPage + 0xfff), kPage + 0x10);
  EXPECT_EQ(m.fault_of(kPage + 0x10, limit_far_jump_if(), kPage + 0xfff), kPage + 0x12);
  EXPECT_EQ(m.fault_of(kPage + 0xff0, limit_jump(), kPage + 0xfff), kPage + 0xff0);
}

GUEST_CODE(limit_to_the_limit, "1: .byte 0xeb, 0x0e")  // jmp over the limit, or to where two more are
TEST(CodeLimit, IsThatOfTheSegmentNotOfThePage) {
  LimitMachine m(kLimit);
  m.put(kPage + 0x7f8, limit_to_the_limit());
  for (unsigned round = 0; round < 3; round++) {
    m.set_code(kPage + 0xfff);
    EXPECT_EQ(m.fault_from(kPage + 0x7f8), kPage + 0x1000);
    m.set_code(kLimit);
    EXPECT_EQ(m.fault_from(kPage + 0x7f8), kPage + 0x7f8);
    m.set_code(kLimit + 3);
    EXPECT_EQ(m.fault_from(kPage + 0x7f8), kPage + 0x7f8);
    m.set_code(kLimit + 9);
    EXPECT_EQ(m.fault_from(kPage + 0x7f8), kPage + 0x809);
  }
}

TEST(CodeLimit, AtAPagesEndEndsAnInstructionThatStraddles) {
  for (bool step : {false, true}) {
    LimitMachine m(kLimit);
    m.step = step;
    const uint64_t at = kPage + 0xffe;
    for (unsigned round = 0; round < 2; round++) {
      m.vcpu->gpr[kRax] = 5;
      EXPECT_EQ(m.fault_of(at, limit_constant(), kPage + 0xfff), at);
      EXPECT_EQ(m.fault_of(at, limit_constant(), kPage + 0x1000), at);
      EXPECT_EQ(m.fault_of(at, limit_constant(), kPage + 0x1001), at);
      EXPECT_EQ(m.vcpu->gpr[kRax], 5u);
      EXPECT_EQ(m.fault_of(at, limit_constant(), kPage + 0x1002), kPage + 0x1003);
      EXPECT_EQ(m.vcpu->gpr[kRax], 0x12345678u);
    }
  }
  // What lies beyond is not asked for: no page need be there.
  LimitMachine m(0x3fefff);
  m.at<uint8_t>(0x3fefff) = 0xb8;
  EXPECT_EQ(m.fault_from(0x3fefff), 0x3fefffu);
}

GUEST_CODE(limit_sum, ".code32; xor eax, eax; mov ecx, 1000; 1: add eax, ecx; push eax; pop edx; dec ecx; jnz 1b; cmp eax, 500500; jne 2f; .byte 0xeb, 0x7f; 2: hlt; .code64")
TEST(CodeLimit, WhatLiesWithinItRuns) {
  for (uint32_t limit : {kPage + 0x3f, kPage + 0x7ff, kPage + 0xfff, kPage + 0x2fff}) {
    LimitMachine m(limit);
    const uint64_t fault = m.fault_of(kPage, limit_sum(), limit);
    EXPECT_EQ(m.vcpu->gpr[kRax], 500500u);
    // The jump at the end is beyond the smallest limit; behind its target are NOPs.
    EXPECT_EQ(fault, limit < kPage + 0x7ff ? kPage + limit_sum().size() - 3 : uint64_t{limit} + 1);
  }
}

GUEST_CODE(limit_below, ".byte 0xeb, 0xf6")                    // jmp -8
GUEST_CODE(limit_below_in_rounds, ".byte 0x49, 0x75, 0xfd, 0xeb, 0xee")  // 1: dec ecx; jnz 1b; jmp -13
TEST(CodeLimit, WhatLiesBelowABaseInsideOfAPageIsBeyondIt) {
  for (bool step : {false, true}) {
    LimitMachine m(kLimit);
    m.step = step;
    EXPECT_EQ(m.fault_of(2, limit_below(), 0xffff, kPage + 0x800), 2u);
    m.vcpu->gpr[kRcx] = 100;
    EXPECT_EQ(m.fault_of(2, limit_below_in_rounds(), 0xffff, kPage + 0x800), 5u);
    EXPECT_EQ(m.vcpu->gpr[kRcx], 0u);
  }
}

// A 16-bit segment's EIP runs on behind 0xffff.
GUEST_CODE(limit_jump_if_not_at_end, ".byte 0x39, 0xc0, 0x75, 0x1e")  // cmp ax, ax; jne
TEST(CodeLimit, SixteenBitCodeDoesNotWrap) {
  for (bool step : {false, true}) {
    LimitMachine m(kLimit);
    m.step = step;
    m.narrow_more = true;
    EXPECT_EQ(m.fault_of(0xfff0, limit_nothing(), 0xffff, kPage + 0x10), 0x10000u);
    EXPECT_EQ(m.fault_of(0xfffc, limit_jump_if_not_at_end(), 0xffff, kPage + 0x10), 0x10000u);
    EXPECT_EQ(m.fault_of(0xfffd, limit_jump_if_not_at_end(), 0xffff, kPage + 0x10), 0xffffu);
  }
}

class RealMachine : public TestMachine {
 public:
  static constexpr uint64_t kHandler = 0x600, kStack = 0x1000;
  explicit RealMachine(uint32_t base) {
    vcpu->cr0 = 0x30;
    vcpu->cr3 = vcpu->cr4 = vcpu->efer = 0;
    for (Segment& s : vcpu->segment) s = Segment{0, 0xffff, 0, 0x93, false};
    vcpu->segment[kCS] = Segment{base, 0xffff, static_cast<uint16_t>(base >> 4), 0x9b, false};
    vcpu->idtr = {0, 0x3ff};
    vcpu->gpr[kRsp] = kStack;
    at<uint32_t>(kGP * 4) = kHandler;
    at<uint8_t>(kHandler) = 0xf4;
    memset(ram + base, kNop, 0x10100);
    vcpu->state_changed();
  }
  unsigned fault_of(uint16_t ip, std::span<const uint8_t> code) {
    memcpy(ram + vcpu->segment[kCS].base + ip, code.data(), code.size());
    vcpu->rip = ip;
    vcpu->state_changed();
    EXPECT_EQ(go(), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(vcpu->rip, kHandler + 1);
    EXPECT_EQ(vcpu->gpr[kRsp], kStack - 6);
    return at<uint16_t>(kStack - 6);
  }
};

GUEST_CODE(limit_constant_16, ".byte 0xb8, 0x34, 0x12")
GUEST_CODE(limit_sets_cx, ".byte 0xb9, 0x34, 0x12")
GUEST_CODE(limit_jump_wide, ".byte 0x66, 0xe9, 0x20, 0, 0, 0")
GUEST_CODE(limit_jump_below, ".byte 0x66, 0xe9, 0xe0, 0xff, 0xff, 0xff")
TEST(CodeLimit, RealModeEndsAt64KiBWhereverTheBaseLies) {
  for (uint32_t base : {0x20000u, 0x20010u, 0x20ff0u}) {
    EXPECT_EQ(RealMachine(base).fault_of(0xffff, limit_nothing()), 0u) << base;  // IP is 0x10000; the frame has 16 bits of it
    EXPECT_EQ(RealMachine(base).fault_of(0xffe0, limit_nothing()), 0u) << base;
    RealMachine m(base);
    EXPECT_EQ(m.fault_of(0xfffe, limit_constant_16()), 0xfffeu) << base;
    EXPECT_EQ(m.vcpu->gpr[kRax] & 0xffff, 0u) << base;
    RealMachine in(base);
    in.fault_of(0xfffd, limit_sets_cx());
    EXPECT_EQ(in.vcpu->gpr[kRcx] & 0xffff, 0x1234u) << base;
    EXPECT_EQ(RealMachine(base).fault_of(0xfff0, limit_jump_wide()), 0xfff0u) << base;
    EXPECT_EQ(RealMachine(base).fault_of(4, limit_jump_below()), 4u) << base;
  }
}

}  // namespace
}  // namespace vireo::softkvm
