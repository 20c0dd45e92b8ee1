// SPDX-License-Identifier: Apache-2.0
// Blocks that are made while the guest runs: what must hold for the vCPU that makes one, and for the others.
// Spec: Intel SDM vol 3, 9.1.3 (cross-modifying code, with the serializing instruction that it wants).
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace vireo::softkvm
