// SPDX-License-Identifier: Apache-2.0
// The engine as a whole: code in, state out. Expected values are the manual's.
#include <gtest/gtest.h>

#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {
namespace {

GUEST_CODE(arithmetic, "mov rax, 5; mov rbx, 7; add rax, rbx; imul rcx, rax, 3; mov r9, rcx; lea r10, [r9 + rax*2 + 1]; mov r11, r10; sub r11, r9; mov r13, r11; hlt")
TEST(Engine, RunsRegisterInstructions) {
  TestMachine m;
  ASSERT_EQ(m.run(arithmetic()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax], 12u);
  EXPECT_EQ(m.vcpu->gpr[kRcx], 36u);
  EXPECT_EQ(m.vcpu->gpr[9], 36u);
  EXPECT_EQ(m.vcpu->gpr[10], 61u);
  EXPECT_EQ(m.vcpu->gpr[13], 25u);
  EXPECT_EQ(m.vcpu->rip, TestMachine::kCode + arithmetic().size());
}

GUEST_CODE(memory, "mov rdi, 0x300000; mov qword ptr [rdi], 0x1234; mov r10, 0x300008; mov [r10], rdi; mov rax, [rdi]; add [rdi], rax; mov r9, [r10]; mov r11, [r9]; "
                   "mov ah, [rdi+1]; mov byte ptr [rdi + 16], 0x7f; xchg [rdi+16], al; lock xadd [rdi], r11; hlt")
TEST(Engine, ReadsAndWritesMemory) {
  TestMachine m;
  ASSERT_EQ(m.run(memory()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.at(0x300000), 0x2468u + 0x2468u);
  EXPECT_EQ(m.at(0x300008), 0x300000u);
  EXPECT_EQ(m.vcpu->gpr[11], 0x2468u);
  EXPECT_EQ(m.vcpu->gpr[kRax], 0x247fu);
  EXPECT_EQ(m.at<uint8_t>(0x300010), 0x34);
}

GUEST_CODE(loop_sum, "xor eax, eax; mov ecx, 1000000; 1: add rax, rcx; dec rcx; jnz 1b; hlt")
TEST(Engine, Loops) {
  TestMachine m;
  ASSERT_EQ(m.run(loop_sum()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax], 500000500000u);
}

GUEST_CODE(fib, "mov edi, 20; call 2f; hlt; 2: cmp edi, 2; jb 3f; push rbx; push rdi; dec edi; call 2b; mov ebx, eax; pop rdi; sub edi, 2; call 2b; add eax, ebx; pop rbx; ret; 3: mov eax, edi; ret")
TEST(Engine, CallsAndReturns) {
  TestMachine m;
  ASSERT_EQ(m.run(fib()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax], 6765u);
  EXPECT_EQ(m.vcpu->gpr[kRsp], TestMachine::kStackTop);
}

GUEST_CODE(flags, "mov rdi, 0x300000; stc; mov rax, [rdi]; adc rbx, 0; cmp rbx, 1; mov rdx, [rdi+8]; sete cl; push rax; pop rax; seta ch; inc dword ptr [rdi]; setc r8b; "
                  "mov r10, -1; add r10, 1; mov [rdi+64], r10; adc r11, 5; pushfq; pop r12; hlt")
TEST(Engine, KeepsFlagsOverMemoryAccesses) {
  TestMachine m;
  m.vcpu->gpr[kRbx] = 0;
  m.vcpu->gpr[11] = 0;
  ASSERT_EQ(m.run(flags()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRbx], 1u);
  EXPECT_EQ(m.vcpu->gpr[kRcx] & 0xffff, 1u);
  EXPECT_EQ(m.vcpu->gpr[8] & 0xff, 0u);
  EXPECT_EQ(m.vcpu->gpr[11], 6u);
  EXPECT_EQ(m.vcpu->gpr[12], 0x6u);  // 5 + 0 + carry = 6: parity even, bit 1
}

GUEST_CODE(strings, "mov edi, 0x300000; mov ecx, 10000; mov al, 0x5a; rep stosb; mov esi, 0x300000; mov edi, 0x310003; mov ecx, 10000; rep movsb; "
                    "mov edi, 0x310003; mov byte ptr [rdi + 5000], 1; mov ecx, 10000; mov al, 0x5a; repe scasb; hlt")
TEST(Engine, RunsStringInstructions) {
  TestMachine m;
  ASSERT_EQ(m.run(strings()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRcx], 10000u - 5001);
  EXPECT_EQ(m.vcpu->gpr[kRdi], 0x310003u + 5001);
  EXPECT_EQ(m.at<uint8_t>(0x310003 + 9999), 0x5a);
}

GUEST_CODE(mmio, "mov edi, 0x10000000; mov eax, [rdi]; or dword ptr [rdi + 8], 0xf0; mov [rdi + 16], rax; in al, 0x60; mov bl, al; out 0x61, al; hlt")
TEST(Engine, LeavesForDevices) {
  TestMachine m;
  ASSERT_EQ(m.run(mmio()), unsigned{KVM_EXIT_MMIO});
  kvm_run& r = *m.vcpu->run;
  EXPECT_EQ(r.mmio.phys_addr, 0x10000000u);
  EXPECT_EQ(r.mmio.len, 4u);
  EXPECT_EQ(r.mmio.is_write, 0);
  uint32_t v = 0x11223344;
  memcpy(r.mmio.data, &v, 4);
  ASSERT_EQ(m.go(), unsigned{KVM_EXIT_MMIO});
  EXPECT_EQ(r.mmio.phys_addr, 0x10000008u);
  EXPECT_EQ(r.mmio.is_write, 0);
  v = 0x0f;
  memcpy(r.mmio.data, &v, 4);
  ASSERT_EQ(m.go(), unsigned{KVM_EXIT_MMIO});
  EXPECT_EQ(r.mmio.is_write, 1);
  memcpy(&v, r.mmio.data, 4);
  EXPECT_EQ(v, 0xffu);
  ASSERT_EQ(m.go(), unsigned{KVM_EXIT_MMIO});
  EXPECT_EQ(r.mmio.len, 8u);
  memcpy(&v, r.mmio.data, 4);
  EXPECT_EQ(v, 0x11223344u);
  ASSERT_EQ(m.go(), unsigned{KVM_EXIT_IO});
  EXPECT_EQ(r.io.direction, KVM_EXIT_IO_IN);
  EXPECT_EQ(r.io.port, 0x60);
  *(static_cast<uint8_t*>(m.page) + r.io.data_offset) = 0x42;
  ASSERT_EQ(m.go(), unsigned{KVM_EXIT_IO});
  EXPECT_EQ(r.io.direction, KVM_EXIT_IO_OUT);
  EXPECT_EQ(*(static_cast<uint8_t*>(m.page) + r.io.data_offset), 0x42);
  ASSERT_EQ(m.go(), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRbx] & 0xff, 0x42u);
}

GUEST_CODE(self_modifying, "lea rdi, [rip + 1f]; xor eax, eax; mov ecx, 3; 2: inc byte ptr [rdi + 1]; 1: mov bl, 10; add eax, ebx; dec ecx; jnz 2b; hlt")
TEST(Engine, SeesCodeItHasOverwritten) {
  TestMachine m;
  m.vcpu->gpr[kRbx] = 0;
  ASSERT_EQ(m.run(self_modifying()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax], 11u + 12 + 13);
}

GUEST_CODE(simd, "mov edi, 0x300000; mov dword ptr [rdi], 0x40490fdb; movss xmm0, [rdi]; addss xmm0, xmm0; movss [rdi+4], xmm0; cvtsi2sd xmm9, r10; movq r11, xmm9; "
                 "vpxor ymm1, ymm1, ymm1; vpaddd ymm2, ymm1, [rdi]; vmovd r9d, xmm2; fld1; fld st(0); faddp; fstp qword ptr [rdi+8]; hlt")
TEST(Engine, RunsSimdAndX87) {
  TestMachine m;
  m.vcpu->gpr[10] = 3;
  ASSERT_EQ(m.run(simd()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.at<uint32_t>(0x300004), 0x40c90fdbu);
  EXPECT_EQ(m.vcpu->gpr[11], 0x4008000000000000u);
  EXPECT_EQ(m.vcpu->gpr[9], 0x40490fdbu);
  EXPECT_EQ(m.at(0x300008), 0x4000000000000000u);
}

GUEST_CODE(crossing, "mov edi, 0x300ffd; mov rax, 0x1122334455667788; mov [rdi], rax; mov rbx, [rdi]; push rbx; pop rcx; lock add [rdi], rcx; mov edi, 0xfffffd; mov eax, [rdi]; hlt")
TEST(Engine, CrossesPages) {
  TestMachine m;
  EXPECT_EQ(m.run(crossing()), unsigned{KVM_EXIT_MMIO});  // the last one runs off the end of RAM
  uint64_t v;
  memcpy(&v, m.ram + 0x300ffd, 8);
  EXPECT_EQ(v, 0x1122334455667788u * 2);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 0x1122334455667788u);
  EXPECT_EQ(m.vcpu->run->mmio.phys_addr, 0x1000000u);
  EXPECT_EQ(m.vcpu->run->mmio.len, 1u);
}

GUEST_CODE(divide, "xor edx, edx; mov eax, 100; xor ecx, ecx; div ecx; hlt; hlt")
TEST(Engine, DeliversHostExceptionsToTheGuest) {
  TestMachine m;
  // IDT at 0x4000: gate 0 to kCode + 0x1000, where a HLT is. GDT at 0x5000 with the code segment.
  m.at(0x5008) = 0x00af9b000000ffff;
  m.vcpu->gdtr = {0x5000, 0x17};
  m.vcpu->idtr = {0x4000, 0xfff};
  uint64_t handler = TestMachine::kCode + 0x1000;
  m.at(0x4000) = (handler & 0xffff) | 8ull << 16 | 0x8e00ull << 32 | (handler >> 16 & 0xffff) << 48;
  m.at<uint8_t>(handler) = 0xf4;
  ASSERT_EQ(m.run(divide()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->rip, handler + 1);
  EXPECT_EQ(m.at(m.vcpu->gpr[kRsp]), TestMachine::kCode + 2 + 5 + 2);  // the DIV's address
}

// The first bytes are there, the rest is on a page that is not: #PF at the instruction with the second page's address in CR2.
TEST(Engine, AnInstructionIntoAnAbsentPageFaults) {
  TestMachine m;
  constexpr uint64_t kEdge = 0x400000;  // from here on absent
  m.at(0x3000 + 2 * 8) = 0;
  const uint8_t code[] = {0x48, 0xb8};  // the beginning of mov rax, imm64
  memcpy(m.ram + kEdge - sizeof code, code, sizeof code);
  m.at<uint8_t>(TestMachine::kCode) = 0xf4;  // hlt
  const uint64_t gate[2] = {0x00108e0000080000ull | (TestMachine::kCode & 0xffff), 0};
  memcpy(m.ram + 0x8000 + 14 * 16, gate, sizeof gate);
  const uint64_t gdt[3] = {0, 0x00af9b000000ffffull, 0x00cf93000000ffffull};
  memcpy(m.ram + 0x9000, gdt, sizeof gdt);
  m.vcpu->idtr = {0x8000, 0xfff};
  m.vcpu->gdtr = {0x9000, sizeof gdt - 1};
  m.vcpu->rip = kEdge - sizeof code;
  m.vcpu->state_changed();
  ASSERT_EQ(m.go(), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->cr2, kEdge);
  EXPECT_EQ(m.at(TestMachine::kStackTop - 40), kEdge - sizeof code);  // the frame's RIP
}

}  // namespace
}  // namespace vireo::softkvm
