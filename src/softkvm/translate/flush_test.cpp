// SPDX-License-Identifier: Apache-2.0
// What the engine keeps of the guest's page tables and code, and what has to make it forget: each test fails
// where an optimisation of switches.h is used beyond its condition. Spec: Intel SDM vol 3, 4.10.4.1 (what
// INVLPG, CR3 and CR4.PGE invalidate), 4.8 (accessed and dirty), 11.6 (self-modifying code).
#include <gtest/gtest.h>

#include <cstring>

#include "softkvm/translate/engine.h"
#include "softkvm/translate/fault_machine.h"
#include "softkvm/translate/jump_cache.h"
#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kFirst = 0x600000,
                   kSecond = 0x800000;  // what the 2 MiB page at 6 MiB is mapped to, one after the other
constexpr uint64_t kEntry = 0x3018;     // its entry in the page directory

// With `mov eax, 1; ret` and `mov eax, 2; ret` on them; rSI is the page, rDI its entry.
class TwoPages : public TestMachine {
 public:
  TwoPages() {
    for (uint64_t page : {kFirst, kSecond}) {
      const uint8_t code[] = {0xb8, static_cast<uint8_t>(page == kFirst ? 1 : 2), 0, 0, 0, 0xc3};
      memcpy(ram + page, code, sizeof code);
    }
    vcpu->gpr[kRsi] = kFirst, vcpu->gpr[kRdi] = kEntry;
  }
};

GUEST_CODE(code_invlpg,
           "call rsi; mov ebx, eax; call rsi; mov qword ptr [rdi], 0x800087; invlpg [rsi]; call rsi; hlt")
GUEST_CODE(code_cr3,
           "call rsi; mov ebx, eax; call rsi; mov qword ptr [rdi], 0x800087; mov rax, cr3; mov cr3, rax; "
           "call rsi; hlt")
TEST(Flush, CodeIsFetchedFromTheNewPage) {
  for (auto code : {code_invlpg(), code_cr3()}) {
    TwoPages m;
    ASSERT_EQ(m.run(code), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(m.vcpu->gpr[kRbx], 1u);
    EXPECT_EQ(m.vcpu->gpr[kRax], 2u);
  }
}

// The instruction begins on the page before the one that changes.
GUEST_CODE(cut_invlpg,
           "sub rsi, 2; call rsi; mov ebx, eax; call rsi; mov qword ptr [rdi], 0x800087; invlpg [rsi + 2]; "
           "call rsi; hlt")
TEST(Flush, TheSecondPageOfAnInstructionIsTheNewOne) {
  TwoPages m;
  const uint8_t code[] = {0xb8, 7, 1, 0, 0, 0xc3};
  memcpy(m.ram + kFirst - 2, code, 2);
  memcpy(m.ram + kFirst, code + 2, 4);
  memcpy(m.ram + kSecond, code + 2, 4);
  m.ram[kSecond] = 2;
  ASSERT_EQ(m.run(cut_invlpg()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRbx], 0x107u);
  EXPECT_EQ(m.vcpu->gpr[kRax], 0x207u);
}

// The stack's page is the one last used for reading and for writing.
GUEST_CODE(stack_invlpg,
           "lea rsp, [rsi + 0x800]; push rdi; pop rbx; push rdi; pop rbx; mov qword ptr [rdi], 0x800087; "
           "invlpg [rsi]; pop rcx; push 5; push 6; pop rdx; hlt")
GUEST_CODE(stack_cr3,
           "lea rsp, [rsi + 0x800]; push rdi; pop rbx; push rdi; pop rbx; mov qword ptr [rdi], 0x800087; mov "
           "rax, cr3; mov cr3, rax; pop rcx; push 5; push 6; pop rdx; hlt")
TEST(Flush, TheStackIsOnTheNewPage) {
  for (auto code : {stack_invlpg(), stack_cr3()}) {
    TwoPages m;
    m.at(kFirst + 0x800) = 11, m.at(kSecond + 0x800) = 22;
    ASSERT_EQ(m.run(code), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(m.vcpu->gpr[kRcx], 22u);
    EXPECT_EQ(m.vcpu->gpr[kRdx], 6u);
    EXPECT_EQ(m.at(kFirst + 0x800), 11u);
    EXPECT_EQ(m.at(kFirst + 0x7f8), kEntry);
    EXPECT_EQ(m.at(kSecond + 0x800), 5u);
    EXPECT_EQ(m.at(kSecond + 0x7f8), 6u);
  }
}

// The jump cache's first entry is of an address that is not canonical when the function's is gone. It is no way to the function: #GP, and here shutdown.
GUEST_CODE(where_no_entry_is, "mov ebx, 0x400040; call rbx; mov rax, cr3; mov cr3, rax; movabs rdx, 0x5555000000000000; xor eax, eax; jmp rdx")
GUEST_CODE(where_no_entry_was, "movabs rdx, 0x5555000000000000; jmp rdx")
TEST(Flush, NoAddressIsThatOfAnEntryThatLeadsNowhere) {
  static_assert(jump_index(0x400040) == 0 && jump_index(kInvalidTag) == 0);
  for (auto code : {where_no_entry_is(), where_no_entry_was()}) {
    TestMachine m;
    m.at(0x400040) = 0xc3c0ff;  // inc eax; ret
    m.vcpu->gpr[kRax] = 0;
    ASSERT_EQ(m.run(code), unsigned{KVM_EXIT_SHUTDOWN});
    EXPECT_EQ(m.vcpu->gpr[kRax], 0u);
  }
}

// Which pages have jump entries is known by a hash (JumpPages): what one page's INVLPG finds tells nothing of another page with the same bit, and a page
// whose entries are gone is not looked for again.
TEST(Flush, PagesOfOneBitLoseTheirJumpEntriesEachByItsOwn) {
  constexpr uint64_t kOne = 0x123456000, kOther = kOne ^ (1ull << 16 | 1ull << 32), kReached = 0x777000;
  static_assert(JumpPages::alike(kOne, kOther) && jump_index(kOne + 8) != jump_index(kOther + 8) && !JumpPages::alike(kOne, kOne + 0x1000));
  for (bool by_log : {true, false}) {
    TestMachine m;
    Engine& e = engine_of(*m.vcpu);
    JumpPages& pages = e.jump_pages[kViewUser];
    auto enter = [&](uint64_t linear) {
      e.jump[kViewUser][jump_index(linear)] = {linear, nullptr};
      e.jump_log[kViewUser].add(jump_index(linear));
      pages.note(linear);
    };
    auto there = [&](uint64_t linear) { return e.jump[kViewUser][jump_index(linear)].tag == linear; };
    enter(kOne + 8), enter(kOther + 8), enter(kOther + 16);
    pages.note_reached(kReached);
    if (!by_log) e.jump_log[kViewUser].forget();
    flush_tlb_page(*m.vcpu, kOne);
    EXPECT_FALSE(there(kOne + 8));
    EXPECT_TRUE(there(kOther + 8) && there(kOther + 16));
    EXPECT_TRUE(pages.may_have(kOther));
    flush_tlb_page(*m.vcpu, kOther);
    EXPECT_FALSE(there(kOther + 8) || there(kOther + 16));
    EXPECT_FALSE(pages.may_have(kOne) || pages.may_have(kOther));
    flush_tlb_page(*m.vcpu, kReached);
    EXPECT_TRUE(pages.may_have(kReached));  // where the entry is that reaches into it is another page's affair
  }
}

// Behind 4 GiB comes address 0, with 32 bits: an instruction that reaches there goes with that page.
TEST(Flush, AnInstructionThatReachesBehind4GiBGoesWithTheFirstPage) {
  for (bool by_log : {true, false}) {
    TestMachine m;
    Engine& e = engine_of(*m.vcpu);
    m.vcpu->segment[kCS] = Segment{0, 0xffffffff, 0x1b, 0xc0fb, false};
    Block block{};
    block.straddle = 1;
    constexpr uint64_t kAt = 0xfffffffd;
    enter_jump(*m.vcpu, kViewUser, kAt, block, nullptr);
    ASSERT_EQ(e.jump[kViewUser][jump_index(kAt)].tag, kAt);
    if (!by_log) e.jump_log[kViewUser].forget();
    flush_tlb_page(*m.vcpu, 0);
    EXPECT_NE(e.jump[kViewUser][jump_index(kAt)].tag, kAt);
  }
}

// Code is written to the stack, called, and written again by pushes. 50 rounds: a page that is overwritten
// often keeps its other blocks.
GUEST_CODE(stack_code,
           "lea rsp, [rsi + 0x900]; mov ebp, 50; 1: mov rax, 0xc300000000b8; mov rbx, rbp; shl rbx, 8; or "
           "rax, rbx; push rax; mov rdx, rsp; "
           "lea rsp, [rsi + 0x400]; call rdx; lea rsp, [rdx + 8]; add r12, rax; dec ebp; jnz 1b; hlt")
TEST(Flush, CodeThatPushesHaveWrittenIsTheNewOne) {
  TwoPages m;
  m.vcpu->gpr[12] = 0;
  ASSERT_EQ(m.run(stack_code()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[12], 50u * 51 / 2);
}

// A global page outlives a load of CR3 at most: not a change of CR4.PGE, and not INVLPG.
GUEST_CODE(global_pge,
           "mov ebx, [rsi]; mov qword ptr [rdi], 0x800187; mov rax, cr4; xor eax, 0x80; mov cr4, rax; xor "
           "eax, 0x80; mov cr4, rax; mov ecx, [rsi]; hlt")
GUEST_CODE(global_invlpg, "mov ebx, [rsi]; mov qword ptr [rdi], 0x800187; invlpg [rsi]; mov ecx, [rsi]; hlt")
TEST(Flush, AGlobalPageGoesWithPgeAndInvlpg) {
  for (auto code : {global_pge(), global_invlpg()}) {
    TwoPages m;
    m.at(kEntry) = kFirst | 0x187;
    m.vcpu->cr4 |= kCr4Pge;
    ASSERT_EQ(m.run(code), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(m.vcpu->gpr[kRbx] >> 8 & 0xff, 1u);
    EXPECT_EQ(m.vcpu->gpr[kRcx] >> 8 & 0xff, 2u);
  }
}

// More pages than the log of fills has room for, each of them another one after the load of CR3.
GUEST_CODE(many_pages,
           "xor r12d, r12d; mov edx, 2; 1: mov rbx, 0x40000000; mov ecx, 9000; 2: add r12d, [rbx]; add rbx, "
           "4096; dec ecx; jnz 2b; shl r12, 32; "
           "mov cr3, rdi; dec edx; jnz 1b; shr r12, 32; hlt")
TEST(Flush, MoreFillsThanTheLogHasRoomForAreForgotten) {
  TestMachine m;
  memcpy(m.ram + 0x11000, m.ram + 0x1000, 0x1000);
  memcpy(m.ram + 0x12000, m.ram + 0x2000, 0x1000);
  m.at(0x11000) = 0x12007;
  for (unsigned space = 0; space < 2; space++) {
    const uint64_t directory = 0x20000 + space * 0x2000, table = directory + 0x1000,
                   page = 0x400000 + space * 0x1000;
    m.at((space ? 0x12000 : 0x2000) + 8) = directory | 7;
    for (unsigned i = 0; i < 512; i++) m.at(directory + i * 8) = table | 7, m.at(table + i * 8) = page | 7;
    m.at(page) = space + 1;
  }
  m.vcpu->gpr[kRdi] = 0x11000;
  ASSERT_EQ(m.run(many_pages()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[12] & 0xffffffff, 18000u);
}

// One INVLPG is for all of a large page: another part of it, read and run before, is the new page's afterwards.
GUEST_CODE(far_invlpg,
           "lea rcx, [rsi + 0x42000]; mov rbx, [rcx + 8]; call rcx; call rcx; mov [rcx + 16], rax; mov qword ptr [rdi], 0x800087; invlpg [rsi + 0x1f1008]; "
           "mov rbx, [rcx + 8]; call rcx; mov [rcx + 16], rax; hlt")
TEST(Flush, InvlpgOfOneAddressDropsAllOfALargePage) {
  TwoPages m;
  for (uint64_t page : {kFirst, kSecond}) {
    memcpy(m.ram + page + 0x42000, m.ram + page, 8);
    m.at(page + 0x42008) = page;
  }
  ASSERT_EQ(m.run(far_invlpg()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRbx], kSecond);
  EXPECT_EQ(m.vcpu->gpr[kRax], 2u);
  EXPECT_EQ(m.at(kFirst + 0x42010), 1u);
  EXPECT_EQ(m.at(kSecond + 0x42010), 2u);
}

// The same of a page of 1 GiB, which becomes many.
GUEST_CODE(huge_invlpg, "mov ebx, 0x40300000; mov ecx, 0x40900000; mov rdx, [rcx]; mov qword ptr [rdi], 0x3007; invlpg [rbx]; mov rax, [rcx]; hlt")
TEST(Flush, InvlpgOfOneAddressDropsAllOfAHugePage) {
  TwoPages m;
  m.at(0x2008) = 0x87;
  m.at(0x3020) = kFirst | 0x87;  // of 8 MiB, and by the same table of 1 GiB and 8 MiB
  m.at(0x900000) = 33, m.at(kFirst + 0x100000) = 11;
  m.vcpu->gpr[kRdi] = 0x2008;
  ASSERT_EQ(m.run(huge_invlpg()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRdx], 33u);
  EXPECT_EQ(m.vcpu->gpr[kRax], 11u);
}

// A read alone sets A; the write behind it has to set D, whatever the read has left in the TLB.
GUEST_CODE(read_only, "mov eax, [rsi]; hlt")
GUEST_CODE(read_and_write, "mov eax, [rsi]; mov [rsi], eax; hlt")
TEST(Flush, AWriteBehindAReadSetsDirty) {
  TwoPages m;
  ASSERT_EQ(m.run(read_only()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.at(kEntry) & 0x60, 0x20u);
  m.vcpu->halted = false;
  ASSERT_EQ(m.run(read_and_write()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.at(kEntry) & 0x60, 0x60u);
}

// The same of a page that becomes dirty, is cleaned and flushed.
GUEST_CODE(cleaned,
           "mov [rsi], esi; and qword ptr [rdi], -65; invlpg [rsi]; mov eax, [rsi]; mov [rsi], eax; hlt")
TEST(Flush, APageThatWasCleanedBecomesDirtyAgain) {
  TwoPages m;
  ASSERT_EQ(m.run(cleaned()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.at(kEntry) & 0x60, 0x60u);
}

// A carry over memory accesses, a poll and the jump back: 64 words added to 64 words.
GUEST_CODE(long_addition,
           "clc; mov edx, 64; 1: mov rax, [rsi]; adc [rdi], rax; lea rsi, [rsi + 8]; lea rdi, [rdi + 8]; dec "
           "edx; jnz 1b; setc bl; hlt")
TEST(Flush, CarriesGoOverJumps) {
  TestMachine m;
  const uint64_t from = 0x400000, to = 0x500000;
  uint64_t expected[64], carry = 0, x = 1;
  for (unsigned i = 0; i < 64; i++) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    const uint64_t a = i % 3 ? ~x : ~0ull, b = i % 5 ? x : x | 1;
    m.at(from + i * 8) = a, m.at(to + i * 8) = b;
    const auto sum = static_cast<unsigned __int128>(a) + b + carry;
    expected[i] = static_cast<uint64_t>(sum), carry = static_cast<uint64_t>(sum >> 64);
  }
  m.vcpu->gpr[kRsi] = from, m.vcpu->gpr[kRdi] = to, m.vcpu->gpr[kRbx] = 0;
  ASSERT_EQ(m.run(long_addition()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(memcmp(m.ram + to, expected, sizeof expected), 0);
  EXPECT_EQ(m.vcpu->gpr[kRbx], carry);
}

// The code behind a jump, by which flags were thought dead, is overwritten and wants them, and again not, 64
// times.
GUEST_CODE(wanted_by_turns,
           "xor r8d, r8d; xor r12d, r12d; 2: mov al, 0xff; add al, 1; mov ebx, [rsp - 64]; jmp 1f; .skip "
           "200, 0xcc; 1: xor ecx, "
           "ecx; nop; and ecx, 1; add r12, r12; or r12, rcx; "
           "inc r8d; cmp r8d, 64; je 3f; mov edx, 0xc931; test r8d, 1; jz 4f; mov edx, 0xc919; 4: mov word "
           "ptr [rip + 1b], dx; jmp 2b; 3: hlt")
TEST(Flush, FlagsAreWantedByCodeThatWasOverwritten) {
  TestMachine m;
  ASSERT_EQ(m.run(wanted_by_turns()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[12], 0x5555555555555555u);
}

// At CPL 0 of a FaultMachine, whose page faults go to a handler of the test's. 4 MiB is mapped by 4 KiB pages (rDI: the first one's entry), 20 MiB to 10 MiB.
class PageFaults : public FaultMachine {
 public:
  explicit PageFaults(std::span<const uint8_t> handler) {
    vcpu->segment[kCS] = Segment{0, 0xffffffff, 8, 0xa09b, false};
    for (unsigned s : {kES, kSS, kDS, kFS, kGS}) vcpu->segment[s] = Segment{0, 0xffffffff, 0x10, 0xc093, false};
    vcpu->cpl = 0;
    at(kIdt + 14 * 16) = 8ull << 16 | 0x8e00ull << 32 | 0x12ull << 48;  // at 0x120000
    at(kIdt + 14 * 16 + 8) = 0;
    vcpu->state_changed();
    for (unsigned i = 0; i < 512; i++) at(0x4000 + i * 8) = (0x400000ull + i * 4096) | 7;
    at(0x3000 + 2 * 8) = 0x4007;
    at(0x3000 + 10 * 8) = 0xa00000 | 0x87;
    memcpy(ram + 0x120000, handler.data(), handler.size());
    vcpu->gpr[kRdi] = 0x4000;
  }
};

// The page is another one when it comes back, and nothing but the fault has told of it: SDM vol 3, 4.10.4.1.
GUEST_CODE(bring_second, "mov qword ptr [rdi], 0x500007; inc r13d; add rsp, 8; iretq")
GUEST_CODE(fetch_faults,
           "xor r13d, r13d; mov esi, 0x400000; call rsi; call rsi; mov edx, 0x1400000; call rdx; mov qword ptr [rdi], 0; "
           "lea rcx, [rsi + 0x100]; call rcx; mov r12, rax; call rsi; hlt")
TEST(Flush, AFetchThatFaultsDropsJumpsIntoThePageWhoseFetchEntryHasGone) {
  PageFaults m(bring_second());
  for (uint64_t page : {0x400000ull, 0x500000ull})
    for (uint64_t offset : {0ull, 0x100ull}) {
      const uint8_t code[] = {0xb8, static_cast<uint8_t>(page == 0x400000 ? 1 : 2), 0, 0, 0, 0xc3};
      memcpy(m.ram + page + offset, code, sizeof code);
    }
  m.at<uint8_t>(0xa00000) = 0xc3;
  ASSERT_EQ(m.run(fetch_faults()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[13], 1u);
  EXPECT_EQ(m.vcpu->gpr[12], 2u);
  EXPECT_EQ(m.vcpu->gpr[kRax], 2u);
}

GUEST_CODE(read_faults,
           "xor r13d, r13d; mov r15, rsp; mov esi, 0x400800; mov r12, [rsi]; mov rsp, rsi; pause; mov rax, [rsp]; pause; "
           "mov ecx, 0x10400800; mov rax, [rcx]; mov qword ptr [rdi], 0; mov rsp, r15; pause; mov rax, [rsi + 8]; pause; "
           "mov rsp, rsi; mov rbx, [rsp]; mov rsp, r15; hlt")
TEST(Flush, AReadThatFaultsDropsTheRecentPageWhoseTlbEntryHasGone) {
  PageFaults m(bring_second());
  m.at(0x400800) = 11, m.at(0x500800) = 22;
  m.at(0x3000 + 130 * 8) = 0xa00000 | 0x87;  // 0x10400000: the same entry of the TLB
  ASSERT_EQ(m.run(read_faults()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[13], 1u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 22u);
}

GUEST_CODE(bring_large, "mov qword ptr [rdi], 0xc00087; inc r13d; add rsp, 8; iretq")
GUEST_CODE(large_faults, "xor r13d, r13d; mov esi, 0x800000; mov rax, [rsi + 0x5000]; mov qword ptr [rdi], 0; mov rax, [rsi]; mov rbx, [rsi + 0x5000]; hlt")
TEST(Flush, AFaultInALargePageDropsAllOfIt) {
  PageFaults m(bring_large());
  m.vcpu->gpr[kRdi] = 0x3020;
  m.at(0x805000) = 11, m.at(0xc05000) = 22;
  ASSERT_EQ(m.run(large_faults()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[13], 1u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 22u);
}

}  // namespace
}  // namespace vireo::softkvm
