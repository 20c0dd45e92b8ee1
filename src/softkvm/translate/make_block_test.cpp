// SPDX-License-Identifier: Apache-2.0
// Blocks that are made while the guest runs: what must hold for the vCPU that makes one, and for the others.
// Spec: Intel SDM vol 3, 9.1.3 (cross-modifying code, with the serializing instruction that it wants).
#include <gtest/gtest.h>
#include <sched.h>

#include "softkvm/translate/engine.h"
#include "softkvm/translate/switches.h"
#include "softkvm/translate/switches_off.h"
#include "softkvm/translate/two_vcpus.h"

namespace vireo::softkvm {
namespace {

// The writer makes `mov eax, round; ret` in one of 32 pages, which it has just written to and may hold a write tag for; the reader makes a
// block of it. If the writer's next store into the page were not seen, the reader would get an old number.
GUEST_CODE(reader, "mov r12d, 1; 1: pause; cmp [0x308000], r12d; jne 1b; xor eax, eax; cpuid; mov esi, r12d; and esi, 31; shl esi, 12; "
                   "add esi, 0x340000; call rsi; cmp eax, r12d; jne 9f; mov [0x308040], r12d; inc r12d; cmp r12d, 2000; jne 1b; 9: hlt")
GUEST_CODE(writer, "mov r12d, 1; 1: mov esi, r12d; and esi, 31; shl esi, 12; add esi, 0x340000; mov byte ptr [rsi], 0xb8; mov [rsi + 1], r12d; "
                   "mov byte ptr [rsi + 5], 0xc3; mov ecx, 100000000; mov [0x308000], r12d; "
                   "2: dec ecx; jz 9f; pause; cmp [0x308040], r12d; jne 2b; inc r12d; cmp r12d, 2000; jne 1b; 9: hlt")
TEST(MakeBlock, StoresOfTheOtherVcpuIntoAPageThatBecomesCodeAreSeen) {
  TwoVcpus m;
  m.run_both(reader(), writer());
  EXPECT_EQ(m.vcpu->gpr[12], 2000u);
  EXPECT_EQ(m.other->gpr[12], 2000u);
}

// A chain of blocks, none of which is there yet, between a load and a store of SIMD and x87 registers.
GUEST_CODE(chain, "mov edi, 0x300000; movups xmm15, [rdi]; movups xmm0, [rdi]; fninit; fldpi; "
                  "\n.rept 60\njmp 1f; ud2; 1: test edi, edi; jnz 1f; ud2; 1:\n.endr\n"
                  "movups [rdi + 16], xmm15; movups [rdi + 32], xmm0; fstp qword ptr [rdi + 48]; hlt")
void run_chain() {
  TestMachine m;
  m.at(TestMachine::kData) = 0x1122334455667788, m.at(TestMachine::kData + 8) = 0x99aabbccddeeff00;
  ASSERT_EQ(m.run(chain()), unsigned{KVM_EXIT_HLT});
  for (unsigned i : {16u, 32u}) {
    EXPECT_EQ(m.at(TestMachine::kData + i), 0x1122334455667788u);
    EXPECT_EQ(m.at(TestMachine::kData + i + 8), 0x99aabbccddeeff00u);
  }
  EXPECT_EQ(m.at(TestMachine::kData + 48), 0x400921fb54442d18u);  // pi
  // More than once for the page that is written and then run, where the slow half waits for the writers.
  if (m.vm->off & kSwitchFastBlocks) {
    EXPECT_GT(m.vcpu->engine->counters.leaves, 120u);
  } else {
    EXPECT_LT(m.vcpu->engine->counters.leaves, 20u);
  }
}
TEST(MakeBlock, KeepsTheSimdStateThatIsLive) { run_chain(); }

TEST(MakeBlock, IsLeftToTheSlowHalfWhereItsSwitchIsOff) {
  SwitchesOff off("fast-blocks");
  run_chain();
}

// The page at 6 MiB is another one in the other address space, and neither is global.
GUEST_CODE(spaces, "mov rcx, cr3; mov edx, 3; xor r12d, r12d; 1: mov esi, 0x600000; call rsi; shl r12, 4; or r12, rax; mov cr3, rdi; call rsi; shl r12, 4; "
                   "or r12, rax; mov cr3, rcx; dec edx; jnz 1b; hlt")
TEST(MakeBlock, FetchesFromTheAddressSpaceThatIsLoaded) {
  TestMachine m;
  memcpy(m.ram + 0x11000, m.ram + 0x1000, 3 * 4096);
  m.at(0x11000) = 0x12007, m.at(0x12000) = 0x13007;
  m.at(0x13000 + 3 * 8) = 0x800087;
  const uint8_t one[] = {0xb8, 1, 0, 0, 0, 0xc3}, two[] = {0xb8, 2, 0, 0, 0, 0xc3};
  memcpy(m.ram + 0x600000, one, sizeof one);
  memcpy(m.ram + 0x800000, two, sizeof two);
  m.vcpu->gpr[kRdi] = 0x11000;
  ASSERT_EQ(m.run(spaces()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[12], 0x121212u);
}

// The writer has a tag for the page when it becomes code.
GUEST_CODE(tagged_writer,
           "mov rbx, 0x308000; mov rsi, 0x400000; mov dword ptr [rsi + 0x800], 1; mov dword ptr [rbx], 1; 1: pause; cmp dword ptr [rbx + 4], 1; jne 1b; "
           "mov byte ptr [rsi + 1], 2; mov dword ptr [rbx + 8], 1; hlt")
GUEST_CODE(runs_twice,
           "mov r14, 0x308000; mov rsi, 0x400000; 1: pause; cmp dword ptr [r14], 1; jne 1b; call rsi; mov r12, rax; mov dword ptr [r14 + 4], 1; "
           "2: pause; cmp dword ptr [r14 + 8], 1; jne 2b; xor eax, eax; cpuid; call rsi; hlt")
TEST(MakeBlock, StoresOfAVcpuWhoseIdIsTheSameModulo8AreSeen) {
  for (unsigned id : {1u, 8u}) {
    TwoVcpus m;
    m.other->id = id;
    memcpy(m.ram + 0x400000, "\xb8\1\0\0\0\xc3", 6);
    m.run_both(runs_twice(), tagged_writer());
    EXPECT_EQ(m.vcpu->gpr[12], 1u) << id;
    EXPECT_EQ(m.vcpu->gpr[kRax], 2u) << id;
  }
}

// A writer without a tag, that looks for code beside the page's becoming such. rbx: [0] written, [8] written again, [16] both have run.
GUEST_CODE(racing_writer,
           "mov rbx, 0x308000; mov rsi, 0x400000; mov edi, 1; "
           "1: mov byte ptr [rsi + 1], 0xff; mov [rbx], edi; mov ecx, edi; imul ecx, ecx, 2654435; shr ecx, 5; and ecx, 255; inc ecx; 2: dec ecx; jnz 2b; "
           "mov eax, edi; and eax, 0x7f; mov byte ptr [rsi + 1], al; mov [rbx + 8], edi; 3: pause; cmp [rbx + 16], edi; jne 3b; inc edi; cmp edi, 5000; jb 1b; hlt")
GUEST_CODE(racing_runner,
           "mov r14, 0x308000; mov rsi, 0x400000; mov edi, 1; xor r12d, r12d; "
           "1: cmp [r14], edi; jne 1b; mov ecx, edi; imul ecx, ecx, 40503; shr ecx, 3; and ecx, 4095; inc ecx; 2: dec ecx; jnz 2b; call rsi; "
           "3: pause; cmp [r14 + 8], edi; jne 3b; xor eax, eax; cpuid; call rsi; mov edx, edi; and edx, 0x7f; cmp eax, edx; je 4f; inc r12d; "
           "4: mov [r14 + 16], edi; inc edi; cmp edi, 5000; jb 1b; hlt")
TEST(MakeBlock, StoresWithoutATagBesideTheMarkingOfTheirPageAreSeen) {
  TwoVcpus m;
  memcpy(m.ram + 0x400000, "\xb8\0\0\0\0\xc3", 6);
  m.run_both(racing_runner(), racing_writer());
  EXPECT_EQ(m.vcpu->gpr[12], 0u);  // one in some ten thousand was, before they told of themselves
}

// A writer that never stops, on the same CPU of the host: whoever waits for it each time that it has written waits for ever.
GUEST_CODE(spinning_writer, "mov rbx, 0x308000; mov rsi, 0x400000; 1: lock bts dword ptr [rsi + 0x800], 0; mov dword ptr [rbx + 8], 1; cmp dword ptr [rbx], 1; jne 1b; hlt")
GUEST_CODE(enters_new_code, "mov rbx, 0x308000; mov esi, 0x400000; mov ecx, 32; call rsi; 2: pause; cmp dword ptr [rbx + 8], 1; jne 2b; 1: call rsi; add rsi, 64; dec ecx; jnz 1b; mov dword ptr [rbx], 1; hlt")
TEST(MakeBlock, IsNotKeptFromAPageThatIsWrittenToAllTheTime) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  CPU_ZERO(&one);
  for (unsigned cpu = 0; cpu < CPU_SETSIZE && !CPU_COUNT(&one); cpu++)
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  {
    TwoVcpus m;
    for (unsigned i = 0; i < 32; i++) m.ram[0x400000 + i * 64] = 0xc3;
    m.run_both(enters_new_code(), spinning_writer());
  }
  EXPECT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
}

}  // namespace
}  // namespace vireo::softkvm
