// SPDX-License-Identifier: Apache-2.0
// The engine as a whole: code in, state out. Expected values are the manual's.
#include <gtest/gtest.h>

#include "softkvm/translate/engine.h"
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

// --- found by random blocks (random_block_test.cpp)

// Every exception ends in a HLT of its own; linear 0x600000 and 0x601000 lie apart in physical memory, 0x602000 is not there.
struct FaultMachine : TestMachine {
  static constexpr uint64_t kFirst = 0x600000, kSecond = 0x601000, kAbsent = 0x602000, kHandlers = 0xa000;
  FaultMachine() {
    for (unsigned v = 0; v < 32; v++) {
      at(0x4000 + v * 16) = ((kHandlers + v * 16) & 0xffff) | 8ull << 16 | 0x8e00ull << 32;
      at(0x4008 + v * 16) = 0;
      at<uint8_t>(kHandlers + v * 16) = 0xf4;
    }
    at(0x5008) = 0x00af9b000000ffff;
    vcpu->gdtr = {0x5000, 0x17};
    vcpu->idtr = {0x4000, 0x1ff};
    at(0x3000 + 3 * 8) = 0x6007;
    for (unsigned i = 0; i < 512; i++) at(0x6000 + i * 8) = i == 0 ? 0x800007 : i == 1 ? 0x900007 : 0;
    vcpu->state_changed();
  }
  int vector() const { return static_cast<int>((vcpu->rip - kHandlers) / 16); }
};

GUEST_CODE(high_bytes, "mov eax, 0x1234; movzx esp, ah; mov r12, rsp; mov dh, 0x81; movsx sp, dh; mov r13, rsp; xor esp, esp; crc32 esp, dh; mov r14, rsp; "
                       "xor eax, eax; mov cl, 0x81; crc32 eax, cl; hlt")
TEST(Engine, WidensHighBytesIntoTheStackPointer) {
  TestMachine m;
  ASSERT_EQ(m.run(high_bytes()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[12], 0x12u);
  EXPECT_EQ(m.vcpu->gpr[13], 0xff81u);
  EXPECT_EQ(m.vcpu->gpr[14], m.vcpu->gpr[kRax]);
}

GUEST_CODE(byte_shift, "mov ebx, 1; cmp ebx, 2; .byte 0x48, 0xc0, 0xe3, 0x20; setc cl; hlt")  // shl bl, 32 with REX.W
TEST(Engine, KeepsFlagsOfAByteShiftBy32) {
  TestMachine m;
  ASSERT_EQ(m.run(byte_shift()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRcx] & 0xff, 1u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 1u);
}

GUEST_CODE(masked_moves, "mov edi, 0x600ff8; pcmpeqb xmm1, xmm1; pcmpeqb xmm2, xmm2; psrldq xmm2, 4; maskmovdqu xmm1, xmm2; "
                         "mov edi, 0x600fe0; vpcmpeqd ymm3, ymm3, ymm3; vpslldq ymm4, ymm3, 12; lea rsi, [rdi + 16]; vpmaskmovd [rsi], ymm4, ymm3; hlt")
TEST(Engine, StoresMaskedElementsOnly) {
  FaultMachine m;
  memset(m.ram + 0x800f00, 0x11, 0x100);
  memset(m.ram + 0x900000, 0x22, 0x100);
  ASSERT_EQ(m.run(masked_moves()), unsigned{KVM_EXIT_HLT});
  EXPECT_GE(m.vcpu->rip, TestMachine::kCode);
  EXPECT_EQ(m.vcpu->gpr[kRdi], 0x600fe0u);
  EXPECT_EQ(m.at<uint32_t>(0x800ff4), 0x11111111u);
  EXPECT_EQ(m.at<uint32_t>(0x800ff8), 0xffffffffu);  // by both
  EXPECT_EQ(m.at<uint32_t>(0x900000), 0xffffffffu);  // MASKMOVDQU's third word
  EXPECT_EQ(m.at<uint32_t>(0x900004), 0x22222222u);  // masked off by both
  EXPECT_EQ(m.at<uint32_t>(0x900008), 0x22222222u);
  EXPECT_EQ(m.at<uint32_t>(0x90000c), 0xffffffffu);
}

GUEST_CODE(misaligned, "mov edi, 0x602008; movaps xmm0, [rdi]; hlt")
TEST(Engine, RaisesGeneralProtectionForMisalignmentBeforeThePageFault) {
  FaultMachine m;
  ASSERT_EQ(m.run(misaligned()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vector(), kGP);
}

GUEST_CODE(over_the_end, "mov rdi, 0x7ffffffffffc; mov rax, [rdi]; hlt")
TEST(Engine, RaisesGeneralProtectionForAnEndThatIsNotCanonical) {
  FaultMachine m;
  ASSERT_EQ(m.run(over_the_end()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vector(), kGP);
}

GUEST_CODE(masked_fault, "mov edi, 0x601ff0; vpcmpeqd xmm3, xmm3, xmm3; vpslldq xmm3, xmm3, 12; vpxor xmm4, xmm4, xmm4; vinserti128 ymm4, ymm4, xmm3, 1; "
                         "vpmaskmovd ymm0, ymm4, [rdi]; hlt")
TEST(Engine, ReportsTheFaultingElementOfAMaskedLoad) {
  FaultMachine m;
  ASSERT_EQ(m.run(masked_fault()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vector(), kPFv);
  EXPECT_EQ(m.vcpu->cr2, 0x60200cu);
}

GUEST_CODE(masked_nowhere, "mov rdi, 0x1234567890abcdef; vpxor xmm4, xmm4, xmm4; vpcmpeqd xmm0, xmm0, xmm0; vpmaskmovd xmm0, xmm4, [rdi]; vmovd eax, xmm0; hlt")
TEST(Engine, MasksOffAddressesThatAreNotCanonical) {
  FaultMachine m;
  ASSERT_EQ(m.run(masked_nowhere()), unsigned{KVM_EXIT_HLT});
  EXPECT_GE(m.vcpu->rip, TestMachine::kCode);
  EXPECT_EQ(m.vcpu->gpr[kRax], 0u);
}

GUEST_CODE(descending, "std; mov esi, 0x602020; mov edi, 0x600800; mov ecx, 4; rep movsq; hlt")
TEST(Engine, ReportsTheFirstElementOfADescendingString) {
  FaultMachine m;
  ASSERT_EQ(m.run(descending()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vector(), kPFv);
  EXPECT_EQ(m.vcpu->cr2, 0x602020u);
}

GUEST_CODE(both_absent, "mov esi, 0x602020; mov edi, 0x603000; movsb; hlt")
TEST(Engine, ReadsAStringsSourceFirst) {
  FaultMachine m;
  ASSERT_EQ(m.run(both_absent()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->cr2, 0x602020u);
}

GUEST_CODE(withheld, "mov edi, 0x600ffc; fninit; push 0x37e; fldcw [rsp]; fst qword ptr [rdi]; mov esi, 0x602000; fld qword ptr [rsi]; hlt")
TEST(Engine, WithholdsAStoreAndRaisesMathFaultBeforeThePageFault) {
  FaultMachine m;
  memset(m.ram + 0x800ff0, 0x11, 16);
  memset(m.ram + 0x900000, 0x22, 16);
  ASSERT_EQ(m.run(withheld()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vector(), kMFv);
  EXPECT_EQ(m.at<uint32_t>(0x800ffc), 0x11111111u);
  EXPECT_EQ(m.at<uint32_t>(0x900000), 0x22222222u);
}

// FLDENV and FRSTOR are run by C++, and wait like all but the no-wait forms (SDM vol 1, 8.6); before they touch their memory.
GUEST_CODE(fldenv_waits, "fninit; push 0x37b; fldcw [rsp]; fld1; fldz; fdivp; mov esi, 0x602000; fldenv [rsi]; hlt")
GUEST_CODE(frstor_waits, "fninit; push 0x37b; fldcw [rsp]; fld1; fldz; fdivp; frstor [rsp - 512]; hlt")
GUEST_CODE(fldenv_opens, "fninit; push 0x37b; fldcw [rsp]; fnstenv [rsp - 512]; or word ptr [rsp - 508], 4; fldenv [rsp - 512]; fld1; hlt")
TEST(Engine, LoadsOfTheX87EnvironmentWaitForAnOpenException) {
  for (const auto& code : {fldenv_waits(), frstor_waits(), fldenv_opens()}) {
    FaultMachine m;
    ASSERT_EQ(m.run(code), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(m.vector(), kMFv);
  }
}

GUEST_CODE(hint_nowhere, "mov rdi, 0x1234567890abcdef; .byte 0x0f, 0x1c, 0x07; mov eax, 1; hlt")  // cldemote
TEST(Engine, IgnoresHintsAboutAddressesThatAreNotThere) {
  FaultMachine m;
  ASSERT_EQ(m.run(hint_nowhere()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax], 1u);
}

// Code at selector 8, data at 16, as an IRET needs them.
void set_gdt(TestMachine& m) {
  auto* gdt = &m.at(0x400000);
  gdt[1] = 0x00af9b000000ffff;
  gdt[2] = 0x00cf93000000ffff;
  m.vcpu->gdtr.base = 0x400000;
  m.vcpu->gdtr.limit = 23;
}

// Debug handlers store DR6 and return; the watched instruction and where the handler returns to are the manual's (17.3.1).
GUEST_CODE(debug_traps, "lea rax, [rip + 9f]; mov edi, 0x310010; mov [rdi], ax; mov word ptr [rdi+2], 8; mov word ptr [rdi+4], 0x8e00; shr rax, 16; mov [rdi+6], ax; "
                        "mov qword ptr [rdi+8], 0; push 0x310000; pushw 0xfff; lidt [rsp]; xor ebx, ebx; "
                        "mov eax, 0x300000; mov dr0, rax; lea rax, [rip + 1f]; mov dr1, rax; mov eax, 0xd0405; mov dr7, rax; "
                        "mov dword ptr [0x300004], 1; mov byte ptr [0x300003], 1; nop; 1: nop; mov eax, [0x300000]; xor eax, eax; mov dr7, rax; "
                        "pushfq; or dword ptr [rsp], 0x100; popfq; nop; pushfq; and dword ptr [rsp], ~0x100; popfq; hlt; "
                        "9: push rax; mov rax, dr6; shl r12, 4; and eax, 0x400f; mov ecx, eax; shr ecx, 12; or eax, ecx; and eax, 15; or r12, rax; "
                        "xor eax, eax; mov dr6, rax; inc ebx; or dword ptr [rsp+24], 0x10000; pop rax; iretq")
TEST(Engine, DebugRegistersAndSingleStep) {
  TestMachine m;
  set_gdt(m);
  m.vcpu->gpr[12] = 0;
  ASSERT_EQ(m.run(debug_traps()), unsigned{KVM_EXIT_HLT});
  // DR0 after the write of a byte in its four, DR1 before the NOP, then BS after NOP, PUSHFQ, AND, POPFQ. The handler sets RF.
  EXPECT_EQ(m.vcpu->gpr[kRbx], 6u);
  EXPECT_EQ(m.vcpu->gpr[12], 0x124444u);
}

// RF, as IRET leaves it behind each page fault, is over with the next instruction, which runs alone only where there are breakpoints that RF keeps away.
GUEST_CODE(return_with_rf, "lea rax, [rip + 1f]; push 0; push 0x10000000; mov rcx, rsp; push 0x10; push rcx; push 0x10002; push 8; push rax; iretq; 1: nop; nop; hlt")
TEST(Engine, RfIsOverWithTheNextInstruction) {
  for (bool armed : {false, true}) {
    TestMachine m;
    set_gdt(m);
    const auto code = return_with_rf();
    if (armed) m.vcpu->dr[0] = TestMachine::kCode + code.size() - 3, m.vcpu->dr7 = 0x401;  // at the first NOP
    ASSERT_EQ(m.run(code), unsigned{KVM_EXIT_HLT});  // else #DB, for which there is no IDT
    EXPECT_EQ(m.vcpu->rflags() & 0x10000, 0u);
    if (!armed) {
      EXPECT_EQ(engine_of(*m.vcpu).counters.steps, 0u);
    }
  }
}

GUEST_CODE(gather, "mov edi, 0x600ffc; mov dword ptr [rdi - 8], 0x11; mov dword ptr [rdi + 2], 0x330022; vpcmpeqd xmm3, xmm3, xmm3; vpxor xmm4, xmm4, xmm4; "
                   "mov eax, -8; vmovd xmm5, eax; mov eax, 2; vpinsrd xmm5, xmm5, eax, 1; vpinsrd xmm5, xmm5, eax, 3; vpinsrd xmm3, xmm3, ecx, 3; "
                   "mov eax, 0x2000; vpinsrd xmm5, xmm5, eax, 2; vpgatherdd xmm4, [rdi + xmm5], xmm3; hlt")
TEST(Engine, GathersUpToTheElementThatFaults) {
  FaultMachine m;
  m.vcpu->gpr[kRcx] = 0;  // element 3 is masked off
  ASSERT_EQ(m.run(gather()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vector(), kPFv);
  EXPECT_EQ(m.vcpu->cr2, 0x602ffcu);
  uint32_t to[4], mask[4];
  memcpy(to, m.vcpu->xsave_area() + 160 + 16 * 4, 16);
  memcpy(mask, m.vcpu->xsave_area() + 160 + 16 * 3, 16);
  EXPECT_EQ(to[0], 0x11u);
  EXPECT_EQ(to[1], 0x330022u);
  EXPECT_EQ(to[2], 0u);
  EXPECT_EQ(mask[0], 0u);
  EXPECT_EQ(mask[1], 0u);
  EXPECT_EQ(mask[2], ~0u);
  EXPECT_EQ(mask[3], 0u);
}

// The jump asks to be linked when its page's table entry has changed already (and was not flushed): which page it goes to there is the
// CPU's choice, but through another mapping the code is still the first page's.
GUEST_CODE(remapped, "mov qword ptr [rdi], 0x800087; xor eax, eax; jmp 1f; .balign 64, 0x90; 1: mov eax, 1; hlt")
TEST(Engine, DoesNotLinkJumpsIntoAnotherPhysicalPage) {
  TestMachine m;
  uint64_t* entries = &m.at(0x3000);
  entries[2] = entries[3] = 0x400087;  // linear 0x400000 and 0x600000: one page
  for (uint64_t page : {0x400000ull, 0x800000ull}) {
    memcpy(m.ram + page, remapped().data(), remapped().size());
    m.vm->notice_write(m.ram + page, remapped().size());
  }
  m.at<uint8_t>(0x800000 + 64 + 1) = 2;  // mov eax, 2
  for (uint64_t linear : {0x400000ull, 0x600000ull, 0x600000ull}) {
    m.vcpu->gpr[kRdi] = 0x3010;
    m.vcpu->rip = linear;
    m.vcpu->state_changed();
    ASSERT_EQ(m.go(), unsigned{KVM_EXIT_HLT});
    if (linear == 0x600000) {
      EXPECT_EQ(m.vcpu->gpr[kRax], 1u);
    }
  }
}

// The same of an instruction cut by the page's end whose second page is another one now, while the first one's bytes change through
// another mapping: the vCPU goes on with one of the two.
GUEST_CODE(remapped_second, "call rsi; mov ebx, eax; mov qword ptr [rdi], 0x800087; mov byte ptr [rdx], 3; call rsi; hlt")
GUEST_CODE(cut_by_page, "mov eax, 0x01010101; ret")
TEST(Engine, GoesOnWhereTheSecondPageOfAnInstructionHasChanged) {
  TestMachine m;
  uint64_t* entries = &m.at(0x3000);
  entries[2] = 0x400087;
  entries[3] = entries[5] = 0x600087;
  memcpy(m.ram + 0x600000 - 2, cut_by_page().data(), 2);
  for (uint64_t page : {0x600000, 0x800000}) memcpy(m.ram + page, cut_by_page().data() + 2, 4);
  m.at<uint8_t>(0x800000) = 2;
  m.vcpu->gpr[kRsi] = 0x600000 - 2;
  m.vcpu->gpr[kRdi] = 0x3018;
  m.vcpu->gpr[kRdx] = 0xa00000;
  ASSERT_EQ(m.run(remapped_second()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRbx], 0x01010101u);
  EXPECT_TRUE(m.vcpu->gpr[kRax] == 0x01010301u || m.vcpu->gpr[kRax] == 0x01010201u) << m.vcpu->gpr[kRax];
}

}  // namespace
}  // namespace vireo::softkvm
