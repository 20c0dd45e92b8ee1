// SPDX-License-Identifier: Apache-2.0
// Accesses that share a check: where all of them can be had, and where the one or other cannot, each does what it does alone. What is expected
// follows from the instructions (Intel SDM vol 2) and from a fault's being precise (vol 3, 6.5).
#include <gtest/gtest.h>

#include "softkvm/translate/code_cache.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/fault_machine.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kPresent = 7, kReadOnly = 5;

// The page table entry of a linear address between 2 and 4 MiB.
uint64_t& entry_of(FaultMachine& m, uint64_t linear) { return m.at(FaultMachine::kTable + (linear - 0x200000) / 4096 * 8); }

// Back at CPL 3, behind a fault.
void user(FaultMachine& m) {
  m.vcpu->segment[kCS] = Segment{0, 0xffffffff, 0x2b, 0xa0fb, false};
  m.vcpu->segment[kSS] = Segment{0, 0xffffffff, 0x23, 0xc0f3, false};
  m.vcpu->gpr[kRsp] = TestMachine::kStackTop;
  m.vcpu->cpl = 3;
  m.vcpu->state_changed();
}

GUEST_CODE(stores_over_the_end, "mov edi, 0x3fefe8; mov eax, 17; mov [rdi], rax; mov [rdi + 16], rax; mov [rdi + 24], rax; mov [rdi + 8], rax; hlt")
TEST(AccessGroups, WhatComesBeforeAFaultIsDoneAndWhatFollowsIsNot) {
  for (bool again : {false, true}) {
    FaultMachine m;
    if (again) {  // with the block made, and the first page in the TLB
      entry_of(m, 0x3ff000) = 0x3ff000 | kPresent;
      m.vector_of(stores_over_the_end());
      entry_of(m, 0x3ff000) = 0;
      flush_tlb(*m.vcpu, false);
      user(m);
    }
    for (uint64_t at : {0x3fefe8, 0x3feff0, 0x3feff8}) m.at(static_cast<uint64_t>(at)) = 1;
    EXPECT_EQ(m.vector_of(stores_over_the_end()), 14u);
    EXPECT_EQ(m.vcpu->cr2, 0x3ff000u);
    EXPECT_EQ(m.at(0x3fefe8), 17u);
    EXPECT_EQ(m.at(0x3feff8), 17u);
    EXPECT_EQ(m.at(0x3feff0), 1u);
  }
}

// Two pages that do not lie together: each access has its own, at whatever place of the group the edge is.
GUEST_CODE(loads_over_the_end, "mov rax, [rdi]; mov rbx, [rdi + 16]; mov rcx, [rdi + 8]; mov rdx, [rdi + 4]; hlt")
TEST(AccessGroups, ALoadOverTheEndOfAPageReadsBothPages) {
  for (unsigned before = 0; before <= 32; before++) {
    FaultMachine m;
    entry_of(m, 0x301000) = 0x350000 | kPresent;
    for (unsigned i = 0; i < 64; i++) {
      m.at<uint8_t>(0x300fc0 + i) = static_cast<uint8_t>(i);
      m.at<uint8_t>(0x350000 + i) = static_cast<uint8_t>(64 + i);
      m.at<uint8_t>(0x301000 + i) = 0xee;
    }
    m.vcpu->gpr[kRdi] = 0x301000 - before;
    EXPECT_EQ(m.vector_of(loads_over_the_end()), 13u);
    auto expected = [&](unsigned at) {
      uint64_t v = 0;
      for (unsigned i = 8; i-- > 0;) v = v << 8 | (64 - before + at + i);
      return v;
    };
    EXPECT_EQ(m.vcpu->gpr[kRax], expected(0)) << before;
    EXPECT_EQ(m.vcpu->gpr[kRbx], expected(16)) << before;
    EXPECT_EQ(m.vcpu->gpr[kRcx], expected(8)) << before;
    EXPECT_EQ(m.vcpu->gpr[kRdx], expected(4)) << before;
  }
}

GUEST_CODE(read_before_write, "mov edi, 0x3a0000; mov rax, [rdi]; mov rbx, [rdi + 8]; mov [rdi + 16], rax; mov rcx, [rdi + 24]; hlt")
TEST(AccessGroups, AReadOnlyPageIsReadBeforeTheWriteFaults) {
  for (unsigned n = 0; n < 2; n++) {
    FaultMachine m;
    m.at(0x3a0000) = 5, m.at(0x3a0008) = 6, m.at(0x3a0018) = 7;
    entry_of(m, 0x3a0000) = 0x3a0000 | kReadOnly;
    for (unsigned run = 0; run <= n; run++) {
      m.vcpu->gpr[kRax] = m.vcpu->gpr[kRbx] = m.vcpu->gpr[kRcx] = 0;
      EXPECT_EQ(m.vector_of(read_before_write()), 14u);
      EXPECT_EQ(m.vcpu->cr2, 0x3a0010u);
      EXPECT_EQ(m.vcpu->gpr[kRax], 5u);
      EXPECT_EQ(m.vcpu->gpr[kRbx], 6u);
      EXPECT_EQ(m.vcpu->gpr[kRcx], 0u);
      EXPECT_FALSE(entry_of(m, 0x3a0000) & 0x40);  // no D
      user(m);
    }
  }
}

// D is set by a write that is done, not by one that a jump leaves out.
GUEST_CODE(write_left_out, "mov edi, 0x3a0000; mov rax, [rdi]; test rax, rax; jnz 1f; mov [rdi + 16], rax; 1: mov rcx, [rdi + 24]; hlt")
TEST(AccessGroups, AWriteThatIsJumpedOverLeavesThePageClean) {
  FaultMachine m;
  m.at(0x3a0000) = 5, m.at(0x3a0018) = 7;
  entry_of(m, 0x3a0000) = 0x3a0000 | kPresent;
  EXPECT_EQ(m.vector_of(write_left_out()), 13u);
  EXPECT_EQ(m.vcpu->gpr[kRcx], 7u);
  EXPECT_EQ(entry_of(m, 0x3a0000) & 0x60, 0x20u);
}

GUEST_CODE(registers_that_move,
           "push 1; push 2; mov rbp, rsp; push 3; lea rsi, [rbp + 8]; mov rax, [rsi]; mov rbx, [rbp]; mov rcx, [rsp]; add rsp, 8; mov rdx, [rsp];"
           "pop r8; mov rdi, rsi; add rdi, 8; mov [rdi], rax; sub rdi, 16; mov r12, [rdi]; inc rdi; mov r13b, [rdi]; mov rsi, [rsi]; mov r14, rsi; hlt")
TEST(AccessGroups, ConstantsAddedToARegisterAreFollowed) {
  TestMachine m;
  m.vcpu->gpr[kRsp] = 0x300100;
  EXPECT_EQ(m.run(registers_that_move()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax], 1u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 2u);
  EXPECT_EQ(m.vcpu->gpr[kRcx], 3u);
  EXPECT_EQ(m.vcpu->gpr[kRdx], 2u);
  EXPECT_EQ(m.vcpu->gpr[8], 2u);
  EXPECT_EQ(m.at(0x300100), 1u);
  EXPECT_EQ(m.vcpu->gpr[12], 2u);
  EXPECT_EQ(m.vcpu->gpr[13] & 0xff, 0u);
  EXPECT_EQ(m.vcpu->gpr[14], 1u);
}

// What lies between two accesses takes all scratch registers.
GUEST_CODE(between, "mov r9d, 1; mov r10d, 2; mov r11d, 3; mov [rdi], r9; mov rcx, [rsi]; add r10, r11; mov [rdi + 8], r10; lea r11, [r9 + r10]; mov [rdi + 16], r11;"
                    "pushf; pop rax; mov rbx, [rdi + 8]; xchg r9, r10; add [rdi + 16], r9; hlt")
TEST(AccessGroups, AHostAddressIsKeptOverWhatNeedsItsRegister) {
  TestMachine m;
  m.vcpu->gpr[kRdi] = 0x300000, m.vcpu->gpr[kRsi] = 0x310000;
  m.at(0x310000) = 9;
  EXPECT_EQ(m.run(between()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.at(0x300000), 1u);
  EXPECT_EQ(m.vcpu->gpr[kRcx], 9u);
  EXPECT_EQ(m.at(0x300008), 5u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 5u);
  EXPECT_EQ(m.at(0x300010), 6u + 5u);
}

// The third store changes the instruction behind it: mov al, 1 into mov al, 2.
GUEST_CODE(store_onto_code, "lea rdi, [rip + 1f]; mov byte ptr [rdi - 64], 0x90; mov byte ptr [rdi - 63], 0x90; mov byte ptr [rdi + 1], 2; 1: mov al, 1; hlt")
TEST(AccessGroups, AStoreThatHitsTheBlockItselfIsSeenAtOnce) {
  TestMachine m;
  for (unsigned n = 0; n < 3; n++) {
    m.vcpu->gpr[kRax] = 0;
    EXPECT_EQ(m.run(store_onto_code()), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(m.vcpu->gpr[kRax] & 0xff, 2u);
  }
}

// Over the edge of two pages, over and over: it does not go back to C++ each time.
GUEST_CODE(rounds_over_the_edge, "mov ecx, 1000; 1: mov rax, [rdi]; add rbx, rax; mov rax, [rdi + 16]; add rbx, rax; add qword ptr [rdi + 24], 1; dec ecx; jnz 1b; hlt")
TEST(AccessGroups, AGroupOverTheEdgeOfTwoPagesIsDoneByLinkedBlocks) {
  FaultMachine m;
  entry_of(m, 0x301000) = 0x350000 | kPresent;
  m.at(0x300ff0) = 3, m.at(0x350000) = 4, m.at(0x350008) = 0;
  m.vcpu->gpr[kRdi] = 0x300ff0, m.vcpu->gpr[kRbx] = 0;
  EXPECT_EQ(m.vector_of(rounds_over_the_edge()), 13u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 7000u);
  EXPECT_EQ(m.at(0x350008), 1000u);
  if (m.vm->off) return;  // how often C++ is called then is another matter
  const VcpuCounters& counters = m.vcpu->engine->counters;
  EXPECT_LT(counters.tlb_misses, 50u);
  EXPECT_LT(counters.lookups, 50u);
  EXPECT_LT(counters.leaves, 50u);
}

}  // namespace
}  // namespace vireo::softkvm
