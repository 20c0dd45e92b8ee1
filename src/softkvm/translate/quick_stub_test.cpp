// SPDX-License-Identifier: Apache-2.0
// The instructions that stubs.S does without C++ in the common case, and what makes a case uncommon. Each test runs with the stubs and without.
// Spec: Intel SDM vol 2, CLI, STI, PUSHF, SWAPGS, MOV, REP, IRET; vol 3, 6.8.3 (STI's shadow).
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "softkvm/translate/engine.h"
#include "softkvm/translate/fault_machine.h"
#include "softkvm/translate/switches_off.h"

namespace vireo::softkvm {
namespace {

// At CPL 0, with an IDT of HLTs.
class KernelMachine : public FaultMachine {
 public:
  KernelMachine() {
    vcpu->segment[kCS] = Segment{0, 0xffffffff, 8, 0xa09b, false};
    for (Segment& s : vcpu->segment)
      if (&s != &vcpu->segment[kCS]) s = Segment{0, 0xffffffff, 16, 0xc093, false};
    vcpu->cpl = 0;
    vcpu->state_changed();
  }
  unsigned vector() const { return static_cast<unsigned>((vcpu->rip - kHandlers) / 16); }
};

class QuickStub : public testing::TestWithParam<const char*> {
 protected:
  SwitchesOff off_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(OnAndOff, QuickStub, testing::Values("", "quick-stubs,string-stubs,direct-jumps,tlb-access", "bulk-strings,string-stubs"));

GUEST_CODE(interrupt_flag, "stc; sti; pushfq; pop rax; cli; pushfq; pop rbx; mov ecx, 0x7fffffff; add ecx, 1; pushfq; pop r9; hlt")
TEST_P(QuickStub, CliStiAndPushfAgreeAboutTheFlags) {
  TestMachine m;
  ASSERT_EQ(m.run(interrupt_flag()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax] & ~uint64_t{kPF | kAF | kZF | kSF | kOF}, 0x203u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], m.vcpu->gpr[kRax] & ~uint64_t{kIF});
  EXPECT_EQ(m.vcpu->gpr[9], uint64_t{2 | kPF | kAF | kSF | kOF});
  EXPECT_FALSE(m.vcpu->system_flags & kIF);
}

GUEST_CODE(pushf_system_bits, "pushfq; pop rax; hlt")
TEST_P(QuickStub, PushfStoresNeitherRfNorVm) {
  TestMachine m;
  m.vcpu->set_rflags(2 | kAC | kID | kNT | kDF | kIOPL);
  ASSERT_EQ(m.run(pushf_system_bits()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax], uint64_t{2 | kAC | kID | kNT | kDF | kIOPL});
}

// The exit after STI is in its shadow if IF was clear before, and if nothing came between.
GUEST_CODE(shadow_next, "sti; out 0x80, al")
GUEST_CODE(shadow_over, "sti; nop; out 0x80, al")
GUEST_CODE(shadow_none, "sti; nop; sti; out 0x80, al")
TEST_P(QuickStub, StiCastsItsShadowOverOneInstruction) {
  for (auto [code, shadow] : {std::pair{shadow_next(), true}, {shadow_over(), false}, {shadow_none(), false}}) {
    TestMachine m;
    ASSERT_EQ(m.run(code), unsigned{KVM_EXIT_IO});
    EXPECT_EQ(m.vcpu->interrupt_shadow_sti, shadow);
    EXPECT_TRUE(m.vcpu->system_flags & kIF);
  }
}

// An interrupt that waits is taken after the instruction behind STI, not before it.
TEST_P(QuickStub, AnInterruptThatWaitsComesBehindTheShadow) {
  static const uint8_t code[] = {0x31, 0xc0, 0xfb, 0xff, 0xc0, 0xff, 0xc0, 0xf4};  // xor eax, eax; sti; inc eax; inc eax; hlt
  KernelMachine m;
  m.vcpu->user_interrupt = 0x10;
  ASSERT_EQ(m.run(code), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vector(), 0x10u);
  EXPECT_EQ(m.vcpu->gpr[kRax], 1u);
}

// IRET that lets in an interrupt: before the instruction it returns to. One that sets TF: a trap behind that.
GUEST_CODE(iret_flags, "xor eax, eax; mov rcx, rsp; push 16; push rcx; push rdx; push 8; lea rcx, [rip + 1f]; push rcx; iretq; 1: inc eax; inc eax; hlt")
TEST_P(QuickStub, IretLooksAtWhatItsFlagsLetIn) {
  {
    KernelMachine m;
    m.vcpu->user_interrupt = 0x10;
    m.vcpu->gpr[kRdx] = 0x202;
    ASSERT_EQ(m.run(iret_flags()), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(m.vector(), 0x10u);
    EXPECT_EQ(m.vcpu->gpr[kRax], 0u);
  }
  KernelMachine m;
  m.vcpu->gpr[kRdx] = 0x102;
  ASSERT_EQ(m.run(iret_flags()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vector(), unsigned{kDB});
  EXPECT_EQ(m.vcpu->gpr[kRax], 1u);
}

// IRET ends the blocking of NMIs: one that waited comes before the instruction it returns to (SDM vol 3, 6.7.1).
GUEST_CODE(iret_nmi, "xor eax, eax; mov rcx, rsp; push 16; push rcx; push 2; push 8; lea rcx, [rip + 1f]; push rcx; iretq; 1: inc eax; inc eax; hlt")
TEST_P(QuickStub, IretLetsInTheNmiThatWaited) {
  KernelMachine m;
  m.vcpu->nmi_masked = true;
  m.vcpu->nmi_request = 1;
  ASSERT_EQ(m.run(iret_nmi()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vector(), 2u);
  EXPECT_EQ(m.vcpu->gpr[kRax], 0u);
  EXPECT_TRUE(m.vcpu->nmi_masked);
}

// Intel's CPUs suppress an instruction breakpoint behind MOV SS (SDM vol 3, 17.3.1.1); AMD's report it.
GUEST_CODE(breakpoint_shadow, "lea rbx, [rip + 1f]; mov dr0, rbx; mov ebx, 0x402; mov dr7, rbx; mov eax, 16; mov ss, eax; 1: inc eax; hlt")
TEST_P(QuickStub, TheVendorDecidesAboutABreakpointBehindMovSs) {
  for (bool amd : {false, true}) {
    KernelMachine m;
    m.vcpu->vendor_is_amd = amd;
    ASSERT_EQ(m.run(breakpoint_shadow()), unsigned{KVM_EXIT_HLT});
    EXPECT_EQ(m.vcpu->gpr[kRax], amd ? 16u : 17u);
  }
}

TEST_P(QuickStub, UsersMayNot) {
  for (std::vector<uint8_t> code : {std::vector<uint8_t>{0xfa, 0xf4}, {0xfb, 0xf4}, {0x0f, 0x01, 0xf8, 0xf4}}) {
    FaultMachine m;
    const uint64_t before = m.vcpu->msr.kernel_gs_base = 0x1234000;
    EXPECT_EQ(m.vector_of(code), unsigned{kGP});
    EXPECT_EQ(m.vcpu->msr.kernel_gs_base, before);
    EXPECT_EQ(m.at(m.vcpu->gpr[kRsp] + 8), TestMachine::kCode);  // the frame's RIP, behind the error code
  }
}

GUEST_CODE(swap, "swapgs; mov rax, gs:[0x10]; swapgs; mov rbx, gs:[0x10]; mov ecx, ss; mov r10d, cs; mov r11w, ds; hlt")
TEST_P(QuickStub, SwapgsAndSelectors) {
  TestMachine m;
  m.vcpu->segment[kGS].base = TestMachine::kData;
  m.vcpu->msr.kernel_gs_base = TestMachine::kData + 0x1000;
  m.at(TestMachine::kData + 0x10) = 11, m.at(TestMachine::kData + 0x1010) = 22;
  m.vcpu->gpr[11] = 0xaaaabbbbccccddddu;
  m.vcpu->gpr[10] = m.vcpu->gpr[kRcx] = ~0ull;
  ASSERT_EQ(m.run(swap()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax], 22u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 11u);
  EXPECT_EQ(m.vcpu->segment[kGS].base, TestMachine::kData);
  EXPECT_EQ(m.vcpu->gpr[kRcx], 16u);
  EXPECT_EQ(m.vcpu->gpr[10], 8u);
  EXPECT_EQ(m.vcpu->gpr[11], 0xaaaabbbbcccc0010u);
}

// REP MOVS and REP STOS of all sizes, alignments and overlaps against one element at a time, twice: the second time the TLB has the pages.
TEST_P(QuickStub, StringsAsElementByElement) {
  TestMachine m;
  std::mt19937 random(1);
  const uint64_t from = 0x400000, to = 0x420000;
  std::vector<uint8_t> expected(0x40000);
  for (unsigned i = 0; i < 400; i++) {
    const unsigned size = 1u << random() % 4, opcode = random() % 2 ? 0xa4 : 0xaa;
    const uint64_t count = random() % 3 ? random() % 40 : random() % 3000;
    const uint64_t source = from + random() % 8200;
    const uint64_t target = random() % 2 ? to + random() % 8200 : source + random() % 20;
    std::vector<uint8_t> code{0xf3};
    if (size == 2) code = {0x66, 0xf3};
    if (size == 8) code.push_back(0x48);
    code.push_back(static_cast<uint8_t>(opcode | (size > 1)));
    code.push_back(0xf4);
    for (unsigned round = 0; round < 2; round++) {
      for (unsigned b = 0; b < 0x40000; b++) expected[b] = m.ram[from + b] = static_cast<uint8_t>(random());
      const uint64_t value = m.vcpu->gpr[kRax] = random() * 0x100000001ull;
      m.vcpu->gpr[kRsi] = source, m.vcpu->gpr[kRdi] = target, m.vcpu->gpr[kRcx] = count;
      m.vcpu->gpr[kRdx] = 1, m.vcpu->gpr[kRbx] = 2, m.vcpu->gpr[8] = 3;
      for (uint64_t n = 0; n < count; n++)
        for (unsigned b = 0; b < size; b++) {
          // An element is read whole before it is written.
          static uint8_t element[8];
          if (b == 0) memcpy(element, opcode == 0xaa ? reinterpret_cast<const uint8_t*>(&value) : &expected[source - from + n * size], size);
          expected[target - from + n * size + b] = element[b];
        }
      if (round == 0) {
        ASSERT_EQ(m.run(code), unsigned{KVM_EXIT_HLT});
      } else {
        m.vcpu->rip = TestMachine::kCode;
        ASSERT_EQ(m.go(), unsigned{KVM_EXIT_HLT});
      }
      m.vcpu->halted = false;
      ASSERT_EQ(memcmp(m.ram + from, expected.data(), expected.size()), 0) << "size " << size << " count " << count << " opcode " << opcode;
      EXPECT_EQ(m.vcpu->gpr[kRcx], 0u);
      EXPECT_EQ(m.vcpu->gpr[kRdi], target + count * size);
      EXPECT_EQ(m.vcpu->gpr[kRsi], source + (opcode == 0xa4 ? count * size : 0));
      EXPECT_EQ(m.vcpu->gpr[kRax], value);
      EXPECT_EQ(m.vcpu->gpr[kRdx] | m.vcpu->gpr[kRbx] << 8 | m.vcpu->gpr[8] << 16, 0x030201u);
    }
  }
}

// Downwards; and with an address size of 32 bits.
GUEST_CODE(string_down, "mov edi, 0x300080; mov esi, 0x301080; mov ecx, 3; std; rep movsb; cld; mov r12, rdi; mov rdi, 0x100300100; mov ecx, 2; "
                        "mov al, 7; .byte 0x67; rep stosb; hlt")
TEST_P(QuickStub, StringsDownwardsAndWithShortAddresses) {
  TestMachine m;
  for (unsigned i = 0; i < 256; i++) m.ram[0x301000 + i] = static_cast<uint8_t>(i);
  ASSERT_EQ(m.run(string_down()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[12], 0x30007du);
  EXPECT_EQ(m.ram[0x30007e], 0x7e);
  EXPECT_EQ(m.ram[0x300080], 0x80);
  EXPECT_EQ(m.ram[0x300081], 0);
  EXPECT_EQ(m.ram[0x300101], 7);
  EXPECT_EQ(m.vcpu->gpr[kRdi], 0x300102u);
}

// A string that overwrites the code behind it, which has run before.
GUEST_CODE(string_over_code, "mov ebp, 2; 1: lea rdi, [rip + 2f]; lea rsi, [rip + 3f]; mov ecx, 5; rep movsb; 2: mov eax, 1; dec ebp; jz 4f; lea rdi, [rip + 2b]; "
                             "mov ecx, 1; mov al, 0xb8; rep stosb; mov byte ptr [rip + 2b + 1], 9; jmp 1b; 4: hlt; 3: mov eax, 0x777")
TEST_P(QuickStub, AStringOverCodeIsSeen) {
  TestMachine m;
  ASSERT_EQ(m.run(string_over_code()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->gpr[kRax], 0x777u);
}

// Into a page that is not there: what was before it is done, and the registers say so.
GUEST_CODE(string_fault, "mov edi, 0x3fe000; mov ecx, 1; xor eax, eax; rep stosb; mov edi, 0x3fd000; mov eax, 0x5a; mov ecx, 9000; rep stosb; hlt")
TEST_P(QuickStub, AStringStopsAtThePageThatIsNotThere) {
  KernelMachine m;
  ASSERT_EQ(m.run(string_fault()), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vector(), unsigned{kPFv});
  EXPECT_EQ(m.vcpu->cr2, FaultMachine::kAbsent);
  EXPECT_EQ(m.vcpu->gpr[kRdi], FaultMachine::kAbsent);
  EXPECT_EQ(m.vcpu->gpr[kRcx], 9000u - 8192u);
  EXPECT_EQ(m.ram[0x3fd000], 0x5a);
  EXPECT_EQ(m.ram[0x3fefff], 0x5a);
}

}  // namespace
}  // namespace vireo::softkvm
