// SPDX-License-Identifier: Apache-2.0
// What each switch of switches.h leaves out, seen by the engine's counters and books or by what it emits.
// Each program runs with everything on and with its switch off; what it computes is the same. (What the
// environment has off is off in both: then nothing is compared.)
#include "softkvm/translate/switches.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "softkvm/translate/code_cache.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/fault_machine.h"
#include "softkvm/translate/switches_off.h"

namespace vireo::softkvm {
namespace {

using Measure = std::function<uint64_t(TestMachine&, Engine&)>;

// The block of guest code at `offset` in the program, as it was made first.
const Block& block_at(TestMachine& m, unsigned offset) {
  const Block* block = m.vm->code->table().find(TestMachine::kCode + offset, m.vcpu->mode);
  if (!block) ADD_FAILURE() << "no block at " << offset;
  static const Block none{};
  return block ? *block : none;
}
uint64_t code_bytes(TestMachine& m) { return block_at(m, 0).code_end - block_at(m, 0).indirect_entry; }

// What `measure` makes of a run with everything on and of one with `name` off (beside `both`, which is off in
// both).
struct OnAndOff {
  uint64_t on = 0, off = 0;
  bool compared = false;  // the environment leaves the switch on
};
OnAndOff compare(const char* name, const Measure& measure, const char* both = "") {
  OnAndOff out;
  SwitchesOff outer(both);
  const char* unknown = nullptr;
  unsigned length = 0;
  const uint32_t bit = parse_switches(name, &unknown, &length);
  EXPECT_EQ(unknown, nullptr) << name;
  {
    TestMachine m;
    out.compared = !(m.vm->off & ~parse_switches(both, &unknown, &length));
    out.on = measure(m, *m.vcpu->engine);
  }
  SwitchesOff inner(name);
  TestMachine m;
  EXPECT_EQ(m.vm->off & bit, bit);
  out.off = measure(m, *m.vcpu->engine);
  return out;
}
#define EXPECT_SWITCHED(result, condition)                                         \
  do {                                                                             \
    const OnAndOff got = (result);                                                 \
    const uint64_t on = got.on, off = got.off;                                     \
    EXPECT_TRUE(!got.compared || (condition)) << "on: " << on << ", off: " << off; \
  } while (0)

using Counter = uint64_t VcpuCounters::*;
// What is counted while `code` runs to its HLT in a machine that `prepare` has made ready.
Measure counted(Counter counter, std::span<const uint8_t> code, std::function<void(TestMachine&)> prepare = {}) {
  return [=](TestMachine& m, Engine& e) {
    if (prepare) prepare(m);
    EXPECT_EQ(m.run(code), unsigned{KVM_EXIT_HLT});
    return e.counters.*counter;
  };
}

// 1000 rounds of a jump inside the page, a call and a return.
GUEST_CODE(rounds,
           "mov ecx, 1000; xor eax, eax; 1: call 2f; jmp 3f; 2: add eax, ecx; ret; 3: dec ecx; jnz 1b; hlt")
Measure after_rounds(std::function<uint64_t(TestMachine&, Engine&)> measure) {
  return [measure](TestMachine& m, Engine& e) {
    EXPECT_EQ(m.run(rounds()), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(m.vcpu->gpr[kRax], 500500u);
    return measure(m, e);
  };
}
Measure counted_in_rounds(Counter counter) {
  return after_rounds([=](TestMachine&, Engine& e) { return e.counters.*counter; });
}

TEST(Switches, LongBlocks) {
  EXPECT_SWITCHED(compare("long-blocks", counted_in_rounds(&VcpuCounters::blocks_translated)), off > on);
  EXPECT_SWITCHED(compare("long-blocks", after_rounds([](TestMachine& m, Engine&) {
                            return block_at(m, 0).guest_end - block_at(m, 0).guest_begin;
                          }),
                          "dead-flags"),
                  off == 5 && on > 5);
}

TEST(Switches, Links) {
  EXPECT_SWITCHED(
      compare("links", after_rounds([](TestMachine& m, Engine&) { return block_at(m, 0).link_count; })),
      on > 0 && off == 0);
}

TEST(Switches, JumpCache) {
  EXPECT_SWITCHED(compare("jump-cache", counted_in_rounds(&VcpuCounters::lookups)), on < 50 && off >= 1000);
}

TEST(Switches, FastBlocksAndDirectJumps) {
  EXPECT_SWITCHED(compare("fast-blocks", counted_in_rounds(&VcpuCounters::leaves)), off > on);
  static const uint8_t iret[] = {
      0x48, 0x89, 0xe0,              // mov rax, rsp
      0x6a, 0x10, 0x50, 0x6a, 0x02,  // push 16; push rax; push 2
      0x6a, 0x08, 0x48, 0x8d, 0x0d, 0x03, 0,
      0,    0,    0x51, 0x48, 0xcf, 0xf4};  // push 8; lea rcx, [rip + 3]; push rcx; iretq; hlt
  EXPECT_SWITCHED(compare("direct-jumps",
                          [&](TestMachine& m, Engine& e) {
                            m.at(0x8000 + 8) = 0x00af9b000000ffff, m.at(0x8000 + 16) = 0x00cf93000000ffff;
                            m.vcpu->gdtr = {0x8000, 0x3f};
                            EXPECT_EQ(m.run(iret), unsigned{KVM_EXIT_HLT});
                            EXPECT_EQ(m.vcpu->rip, TestMachine::kCode + sizeof iret);
                            return e.counters.leaves;
                          }),
                  off > on);
}

GUEST_CODE(interrupt_flag_rounds, "mov ecx, 100; 1: cli; mov eax, ss; dec ecx; jnz 1b; hlt")
GUEST_CODE(strings_of_a_page,
           "mov edx, 100; 1: mov edi, 0x300000; mov ecx, 100; xor eax, eax; rep stosb; dec edx; jnz 1b; hlt")
TEST(Switches, StubsAndTheStackWithoutCallOuts) {
  const Counter called = &VcpuCounters::call_outs;
  EXPECT_SWITCHED(compare("quick-stubs", counted(called, interrupt_flag_rounds())), on < 10 && off >= 200);
  EXPECT_SWITCHED(compare("string-stubs", counted(called, strings_of_a_page())), on < 10 && off >= 100);
  EXPECT_SWITCHED(compare("quick-stubs", counted(called, strings_of_a_page())), off < 10);
  EXPECT_SWITCHED(compare("inline-stack", counted_in_rounds(called)), on < 10 && off >= 2000);
}

// The string ends on code, which `code` ends with. What it takes in step mode.
Measure steps_onto_code(std::span<const uint8_t> code) {
  return [=](TestMachine& m, Engine& e) {
    memcpy(m.ram + TestMachine::kCode, code.data(), code.size());
    m.vm->notice_write(m.ram + TestMachine::kCode, code.size());
    m.vcpu->rip = TestMachine::kCode + code.size() - 6;  // so that there is code
    m.vcpu->state_changed();
    EXPECT_EQ(m.go(), unsigned{KVM_EXIT_HLT});
    const uint64_t before = e.counters.steps;
    m.vcpu->rip = TestMachine::kCode;
    m.vcpu->gpr[kRax] = 0;
    m.vcpu->state_changed();
    EXPECT_EQ(m.go(), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(m.vcpu->gpr[kRax], 5u);
    return e.counters.steps - before;
  };
}
// In bulk, all of what lies before is in its way; element by element only what is code.
GUEST_CODE(string_down_to_code, "lea rdi, [rip + 2f + 2047]; mov ecx, 2048; mov eax, 0xf4; std; rep stosb; cld; jmp 1f; .skip 1000, 0xcc; "
                                "1: mov eax, 5; 2: hlt")
// Upwards it goes as far as it can at once.
GUEST_CODE(string_to_code,
           "lea rdi, [rip + 1f - 2048]; mov ecx, 2050; mov eax, 0x90; rep stosb; jmp 1f; .skip 3300, 0xcc; "
           "1: .byte 0x0f, 0x0b; mov eax, 5; hlt")
TEST(Switches, BulkStrings) {
  EXPECT_SWITCHED(compare("bulk-strings", steps_onto_code(string_down_to_code()), "string-stubs"), on > 1000 && off < 1000);
  EXPECT_SWITCHED(compare("bulk-strings", steps_onto_code(string_to_code()), "string-stubs"), on < 200);
}

// Bit offsets are signed and reach beyond the operand; ZF is left alone (Intel SDM vol 2, BT). Here bit 4001 of a string at 0x300000, which is bit 1 of
// the byte at 0x3001f4; 100 bits before it; one over the edge of a page; by registers that have no place in the host's.
GUEST_CODE(bit_rounds,
           "mov edi, 0x300000; mov ecx, 100; mov eax, 4001; 1: bts [rdi], rax; dec ecx; jnz 1b; lea rbx, [rdi + 512]; mov r10, -95; mov r11, rbx; "
           "bt [r11], r10; setc dl; lock btr [r11], r10; setc dh; bt [r11], r10d; setc cl; mov r9d, -1; mov esi, 0x301000; lock bts [rsi], r9d; "
           "mov r8, 0x3ffffc; mov ebp, 40; btc [r8], rbp; cmp eax, eax; bt [rdi], rax; setz ch; hlt")
TEST(Switches, BitStrings) {
  EXPECT_SWITCHED(compare("bit-strings",
                          [](TestMachine& m, Engine& e) {
                            EXPECT_EQ(m.run(bit_rounds()), unsigned{KVM_EXIT_HLT});
                            EXPECT_EQ(m.vcpu->gpr[kRdx] & 0xffff, 0x0101u);
                            EXPECT_EQ(m.vcpu->gpr[kRcx] & 0xffff, 0x0100u);
                            EXPECT_EQ(m.at<uint8_t>(0x3001f4), 0u);
                            EXPECT_EQ(m.at<uint32_t>(0x300ffc), 0x80000000u);
                            EXPECT_EQ(m.at<uint8_t>(0x400001), 1u);
                            return e.counters.call_outs;
                          }),
                  on < 10 && off >= 100);
}

GUEST_CODE(flags_dead,
           "mov edi, 0x300000; add eax, 1; mov ebx, [rdi]; add eax, 1; mov [rdi], ebx; xor ecx, ecx; hlt")
GUEST_CODE(flags_over_a_jump, "cmp eax, eax; jmp 1f; 1: sete cl; hlt")
TEST(Switches, Flags) {
  EXPECT_SWITCHED(
      compare("dead-flags", [](TestMachine& m,
                               Engine&) { return m.run(flags_dead()) == KVM_EXIT_HLT ? code_bytes(m) : 0; }),
      off > on && on);
  EXPECT_SWITCHED(
      compare("host-flags",
              [](TestMachine& m, Engine&) -> uint64_t {
                EXPECT_EQ(m.run(flags_over_a_jump()), unsigned{KVM_EXIT_HLT});
                EXPECT_EQ(m.vcpu->gpr[kRcx] & 0xff, 1u);
                const Block& block = block_at(m, 0);
                return block.link_count == 1 ? static_cast<uint64_t>(block.links[0].site.flags) : 99;
              }),
      on == static_cast<uint64_t>(FlagsIn::kHost) && off == static_cast<uint64_t>(FlagsIn::kSlot));
}

// With all flags counted as read a fault's frame shows those of the instruction before. Intel SDM vol 2, ADD:
// 0x7fffffff + 1 sets OF, SF, AF and PF.
GUEST_CODE(faults_behind_an_addition,
           "mov eax, 0x7fffffff; add eax, 1; mov [0x3ff000], eax; xor eax, eax; hlt")
TEST(Switches, DeadFlagsOffShowsAFaultsFlags) {
  SwitchesOff off("dead-flags");
  FaultMachine m;
  ASSERT_EQ(m.vector_of(faults_behind_an_addition()), unsigned{kPFv});
  EXPECT_EQ(m.at(m.vcpu->gpr[kRsp] + 24) & (kOF | kSF | kZF | kAF | kPF | kCF),
            uint64_t{kOF | kSF | kAF | kPF});
}

GUEST_CODE(accesses,
           "mov edi, 0x300000; mov eax, [rdi]; mov [rdi + 8], rdi; push rdi; pop rbx; push rdi; pop rbx; mov "
           "edi, 0x301000; mov [rdi], edi; hlt")
TEST(Switches, Tlb) {
  auto run = [](std::function<uint64_t(Engine&)> measure) {
    return [measure](TestMachine& m, Engine& e) {
      EXPECT_EQ(m.run(accesses()), unsigned{KVM_EXIT_HLT});
      EXPECT_EQ(m.vcpu->gpr[kRbx], 0x300000u);
      EXPECT_EQ(m.at(0x300008), 0x300000u);
      return measure(e);
    };
  };
  auto misses = [](Engine& e) { return e.counters.tlb_misses; };
  EXPECT_SWITCHED(compare("inline-tlb", run(misses)), on > 0 && off == 0);
  EXPECT_SWITCHED(compare("rorx",
                          [&](TestMachine& m, Engine& e) {
                            run(misses)(m, e);
                            const Block& b = block_at(m, 0);
                            const std::string_view code(reinterpret_cast<const char*>(m.vm->code->executable(b.indirect_entry)), b.code_end - b.indirect_entry);
                            return uint64_t{code.find("\xc4\x43\xfb\xf0\xd3\x0c") != code.npos};
                          }),
                  on == 1 && off == 0);
  EXPECT_SWITCHED(
      compare("recent-pages", run([](Engine& e) {
                return uint64_t{e.recent[kViewSupervisor][1][kRsp].tag == TestMachine::kStackTop - 4096};
              })),
      on == 1 && off == 0);
}

GUEST_CODE(by_one_register, "mov edi, 0x300000; mov rax, [rdi]; mov rbx, [rdi + 8]; mov rcx, [rdi + 16]; mov rdx, [rdi + 24]; hlt")
TEST(Switches, GroupedChecks) {
  EXPECT_SWITCHED(compare("grouped-checks",
                          [](TestMachine& m, Engine&) {
                            EXPECT_EQ(m.run(by_one_register()), unsigned{KVM_EXIT_HLT});
                            return code_bytes(m);
                          }),
                  on < off);
}

// A page with D set is read first; and with CR4.PGE and a global page, around a load of CR3.
GUEST_CODE(read_then_write, "mov edi, 0x300000; mov eax, [rdi]; mov [rdi], eax; hlt")
GUEST_CODE(over_cr3, "mov edi, 0x300000; mov rax, cr3; mov ebx, [rdi]; mov cr3, rax; mov ebx, [rdi]; hlt")
TEST(Switches, EarlyWriteTagsAndGlobalPages) {
  const Counter misses = &VcpuCounters::tlb_misses;
  auto dirty = [](TestMachine& m) { m.at(0x3000 + 8) |= 0x60; };
  auto global = [](TestMachine& m) {
    m.at(0x3000 + 8) |= 0x100;
    m.vcpu->cr4 |= kCr4Pge;
  };
  EXPECT_SWITCHED(compare("early-write-tags", counted(misses, read_then_write(), dirty)), on == 1 && off == 2);
  EXPECT_SWITCHED(compare("global-pages", counted(misses, over_cr3(), global)), on == 1 && off == 2);
}

// An entry that the books do not know of.
TEST(Switches, FillLogAndInvlpgFilter) {
  // Which of an entry of the TLB and one of the jump cache `flush` drops: 1 and 2.
  auto dropped = [](std::function<void(TestMachine&)> flush) {
    return [=](TestMachine& m, Engine& e) {
      uint64_t& tag = e.tlb[kViewUser].read[0x300] = 0x300000;
      JumpEntry& jump = e.jump[kViewUser][jump_index(0x300000)] = {0x300000, nullptr};
      flush(m);
      return uint64_t{tag == no_page(0x300)} + 2 * (jump.tag == no_jump(jump_index(0x300000)));
    };
  };
  EXPECT_SWITCHED(compare("fill-log", dropped([](TestMachine& m) { flush_tlb(*m.vcpu, false); })), on == 0 && off == 3);
  EXPECT_SWITCHED(compare("invlpg-filter", dropped([](TestMachine& m) { flush_tlb_page(*m.vcpu, 0x300000); })), on == 1 && off == 3);
}

// Global pages, and CR4.PGE toggled: Intel SDM vol 3, 4.10.4.1. A function at 0x400000 gives 1, one at 0x600000 gives 2.
void map_global(TestMachine& m) {
  for (unsigned i = 0; i < 8; i++) m.at(0x3000 + 8 * i) |= 0x100;
  m.vcpu->cr4 |= kCr4Pge;
  m.at(0x400000) = 0xc300000001b8, m.at(0x600000) = 0xc300000002b8;  // mov eax, n; ret
}
GUEST_CODE(toggled_rounds, "mov esi, 100; 1: call 2f; mov rax, cr4; xor eax, 0x80; mov cr4, rax; xor eax, 0x80; mov cr4, rax; dec esi; jnz 1b; hlt; 2: ret")
TEST(Switches, KeptJumps) {
  EXPECT_SWITCHED(compare("kept-jumps", counted(&VcpuCounters::lookups, toggled_rounds(), map_global)), on < 50 && off >= 200);
}
GUEST_CODE(loads_and_toggles,
           "mov esi, 100; mov edi, 0x700000; 1: mov eax, [rdi]; mov rax, cr4; xor eax, 0x80; mov cr4, rax; xor eax, 0x80; mov cr4, rax; dec esi; jnz 1b; hlt")
GUEST_CODE(load_of_another_part, "mov edi, 0x700000; mov eax, [rdi]; and dword ptr [0x3018], -0x21; add edi, 0x2000; mov eax, [rdi]; mov eax, [0x3018]; hlt")
TEST(Switches, KeptPagesAndKnownAreas) {
  const Counter misses = &VcpuCounters::tlb_misses;
  EXPECT_SWITCHED(compare("kept-pages", counted(misses, loads_and_toggles(), map_global)), on < 10 && off >= 100);
  EXPECT_SWITCHED(compare("kept-pages", counted(misses, loads_and_toggles(), map_global), "known-areas"), on < 10 && off >= 100);
  // The processor's accessed bit tells of a walk.
  EXPECT_SWITCHED(compare("known-areas",
                          [](TestMachine& m, Engine&) {
                            map_global(m);
                            EXPECT_EQ(m.run(load_of_another_part()), unsigned{KVM_EXIT_HLT});
                            return m.vcpu->gpr[kRax] >> 5 & 1;
                          }),
                  on == 0 && off == 1);
}
GUEST_CODE(mapped_anew_and_toggled,
           "mov ebx, 0x400000; call rbx; mov ebp, eax; xor dword ptr [0x3010], 0x200000; mov rax, cr4; xor eax, 0x80; mov cr4, rax; xor eax, 0x80; mov cr4, rax; call rbx; hlt")
GUEST_CODE(mapped_anew_without_global_pages,
           "mov ebx, 0x400000; call rbx; mov ebp, eax; mov rax, cr4; xor eax, 0x80; mov cr4, rax; xor dword ptr [0x3010], 0x200000; mov rax, cr3; mov cr3, rax; call rbx; hlt")
GUEST_CODE(not_global_any_more,
           "mov ebx, 0x400000; call rbx; mov ebp, eax; and dword ptr [0x3010], -0x101; mov rax, cr4; xor eax, 0x80; mov cr4, rax; xor eax, 0x80; mov cr4, rax; call rbx; "
           "xor dword ptr [0x3010], 0x200000; mov rax, cr3; mov cr3, rax; call rbx; hlt")
TEST(Switches, KeptJumpsGoWhereThePageTablesSay) {
  for (auto code : {mapped_anew_and_toggled(), mapped_anew_without_global_pages(), not_global_any_more()}) {
    TestMachine m;
    map_global(m);
    ASSERT_EQ(m.run(code), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(m.vcpu->gpr[kRbp], 1u);
    EXPECT_EQ(m.vcpu->gpr[kRax], 2u);
  }
}

// The processor's accessed bit tells of a walk: it is taken away between two runs, and nothing is flushed.
uint64_t walks_again(TestMachine& m, std::span<const uint8_t> code, uint64_t& entry) {
  EXPECT_EQ(m.run(code), unsigned{KVM_EXIT_HLT});
  entry &= ~0x20ull;
  m.vcpu->rip = TestMachine::kCode;
  EXPECT_EQ(m.go(), unsigned{KVM_EXIT_HLT});
  return entry >> 5 & 1;
}
GUEST_CODE(store_table, "sgdt [0x300000]; hlt")
TEST(Switches, FetchCacheAndTlbAccess) {
  EXPECT_SWITCHED(
      compare(
          "fetch-cache", [](TestMachine& m, Engine&) { return walks_again(m, rounds(), m.at(0x3000)); },
          "jump-cache,recent-pages,inline-tlb,links"),
      off == 1);
  EXPECT_SWITCHED(
      compare("tlb-access",
              [](TestMachine& m, Engine&) { return walks_again(m, store_table(), m.at(0x3000 + 8)); }),
      on == 0 && off == 1);
}

// Over the edge of two pages that the TLB has; and writes beside the code of their page, whose first is noted.
GUEST_CODE(over_an_edge, "mov edi, 0x3ffffc; mov eax, [rdi]; mov eax, [rdi + 4]; mov rax, [rdi]; hlt")
GUEST_CODE(rounds_beside, "mov ecx, 50; 1: mov dword ptr [rip + 1b + 2048], ecx; dec ecx; jnz 1b; hlt")
GUEST_CODE(write_protected_by_invlpg, "lea rdi, [rip + 1f + 2048]; 1: mov [rdi], eax; mov [rdi], eax; and dword ptr [0x3000], -3; invlpg [rdi]; mov [rdi], eax; hlt")
GUEST_CODE(write_protected_by_cr3, "lea rdi, [rip + 1f + 2048]; 1: mov [rdi], eax; mov [rdi], eax; and dword ptr [0x3000], -3; mov rax, cr3; mov cr3, rax; mov [rdi], eax; hlt")
TEST(Switches, QuickMisses) {
  EXPECT_SWITCHED(compare("quick-misses", [](TestMachine& m, Engine&) { return walks_again(m, over_an_edge(), m.at(0x3000 + 16)); }), on == 0 && off == 1);
  EXPECT_SWITCHED(compare("quick-misses", counted(&VcpuCounters::tlb_fills, rounds_beside())), on < 10 && off >= 50);
  for (auto code : {write_protected_by_invlpg(), write_protected_by_cr3()}) {
    TestMachine m;
    EXPECT_EQ(m.run(code), unsigned{KVM_EXIT_SHUTDOWN});  // a page fault, and no table of handlers
  }
}

// A store far from the code of its page.
GUEST_CODE(store_beside, "mov ecx, 2; 1: mov dword ptr [rip + 1b + 2048], ecx; dec ecx; jnz 1b; hlt")
TEST(Switches, CodeChunks) {
  EXPECT_SWITCHED(compare("code-chunks", counted(&VcpuCounters::code_writes, store_beside())), on == 0 && off == 2);
}

// Whether a vCPU whose memory could be mapped again measures its user code, to run it natively.
GUEST_CODE(halt, "hlt")
TEST(Switches, Native) {
  auto measures = [](TestMachine& m, Engine& e) {
    const int file = memfd_create("switches-test", MFD_CLOEXEC);
    EXPECT_EQ(ftruncate(file, TestMachine::kRam), 0);
    EXPECT_EQ(m.vm->lent.add(m.ram, TestMachine::kRam, file, 0), 0);
    close(file);
    m.vcpu->tsc_khz = 2'000'000;
    EXPECT_EQ(m.run(halt()), unsigned{KVM_EXIT_HLT});
    return uint64_t{e.profile.ticks_per_microsecond};
  };
  EXPECT_SWITCHED(compare("native", measures), on == 2000 && off == 0);
}

TEST(Switches, LargePages) {
  auto ranges = [](TestMachine& m, Engine&) {
    EXPECT_EQ(m.vm->code->small_pages, (m.vm->off & kSwitchLargePages) != 0);
    EXPECT_EQ(m.vm->allow_large_pages(reinterpret_cast<void*>(1ull << 40), 2 * kLargePage), 0);
    return uint64_t{m.vm->large.ranges()};
  };
  EXPECT_SWITCHED(compare("large-pages", ranges), on == 1 && off == 0);
}

TEST(Switches, AreNamedInAList) {
  const char* unknown = nullptr;
  unsigned length = 0;
  EXPECT_EQ(parse_switches("", &unknown, &length), 0u);
  EXPECT_EQ(parse_switches("fast-blocks", &unknown, &length), kSwitchFastBlocks);
  EXPECT_EQ(parse_switches(",fast-blocks,links,", &unknown, &length), kSwitchFastBlocks | kSwitchLinks);
  EXPECT_EQ(unknown, nullptr);
  EXPECT_EQ(parse_switches("fast-block,fast-blocks,x", &unknown, &length), kSwitchFastBlocks);
  EXPECT_EQ(std::string(unknown, length), "fast-block");
  uint32_t all = 0;
  for (const SwitchName& s : kSwitchNames) {
    EXPECT_EQ(all & s.bit, 0u) << s.name;
    all |= s.bit;
  }
}

}  // namespace
}  // namespace vireo::softkvm
