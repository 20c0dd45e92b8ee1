// SPDX-License-Identifier: Apache-2.0
// Which fault an instruction ends with, and what it leaves behind, where several would do; encodings that mean something else in 32-bit code. Expected values are the bare CPU's: a random block
// found each of them.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>

#include "softkvm/cpu/feature_enabled.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/fault_machine.h"

namespace vireo::softkvm {
namespace {

GUEST_CODE(compare_two_faults, "movabs rsi, 0x7ffffffffffd; movabs rdi, 0x1234567890abcdef; mov ecx, 10; repe cmpsb; hlt")
TEST(Faults, CmpsReadsRdiFirst) {
  FaultMachine m;
  EXPECT_EQ(m.vector_of(compare_two_faults()), 13u);
  EXPECT_EQ(m.vcpu->gpr[kRcx], 10u);
}

GUEST_CODE(compare_two_pages, "mov esi, 0x3ff010; mov edi, 0x3ff020; cmpsq; hlt")
TEST(Faults, CmpsReadsThePageOfRdiFirst) {
  FaultMachine m;
  EXPECT_EQ(m.vector_of(compare_two_pages()), 14u);
  EXPECT_EQ(m.vcpu->cr2, 0x3ff020u);
}

bool has(uint64_t components) { return (Vcpu::supported_xcr0() & components) == components; }

GUEST_CODE(gather_no_page, "vmovd xmm4, eax; vpcmpeqd ymm1, ymm1, ymm1; vinserti128 ymm1, ymm1, xmm4, 0; "
                           "vpxor ymm2, ymm2, ymm2; mov edi, 0x3ff000; vgatherqps xmm3, [rdi + ymm2], xmm1; hlt")
TEST(Faults, AGatherThatFaultsHasExpandedTheSignsOfItsWholeMask) {
  if (!has(4)) GTEST_SKIP() << "no AVX";
  FaultMachine m;
  m.vcpu->gpr[kRax] = 0x80000000;  // element 0 is wanted, 1 to 3 are not
  ASSERT_EQ(m.vector_of(gather_no_page()), 14u);
  uint32_t low[4], high[4];
  memcpy(low, m.component(160 + 16), 16);
  memcpy(high, m.component(576 + 16), 16);
  EXPECT_EQ(low[0], 0xffffffffu);
  EXPECT_EQ(low[1], 0u);
  for (uint32_t h : high) EXPECT_EQ(h, 0xffffffffu);
}

GUEST_CODE(gather_second_absent, "vpcmpeqd ymm3, ymm3, ymm3; vpcmpeqd xmm1, xmm1, xmm1; vpxor xmm2, xmm2, xmm2; mov eax, 4; vpinsrd xmm2, xmm2, eax, 1; "
                                 "mov edi, 0x3feffc; vpgatherdd xmm3, [rdi + xmm2], xmm1; hlt")
TEST(Faults, AGatherThatFaultsHasClearedTheBitsAboveItsVectorIfAnElementCame) {
  if (!has(4)) GTEST_SKIP() << "no AVX";
  FaultMachine m;
  m.at<uint32_t>(0x3feffc) = 0x12345678;
  ASSERT_EQ(m.vector_of(gather_second_absent()), 14u);
  EXPECT_EQ(m.vcpu->cr2, 0x3ff000u);
  uint32_t low, high[4];
  memcpy(&low, m.component(160 + 48), 4);
  memcpy(high, m.component(576 + 48), 16);
  EXPECT_EQ(low, 0x12345678u);
  for (uint32_t h : high) EXPECT_EQ(h, 0u);
}

GUEST_CODE(masked_broadcast, "kmovw k1, eax; mov edi, 0x300001; push 0x40202; popfq; vaddps xmm1{k1}, xmm1, [rdi]{1to4}; hlt")
TEST(Faults, AMaskedElementThatIsMisalignedIsAlignmentCheckOnlyWhereItIsWanted) {
  if (!has(0xe6)) GTEST_SKIP() << "no AVX-512";
  FaultMachine wanted, unwanted;
  wanted.vcpu->gpr[kRax] = 1;
  EXPECT_EQ(wanted.vector_of(masked_broadcast()), 17u);
  unwanted.vcpu->gpr[kRax] = 0;
  EXPECT_EQ(unwanted.vector_of(masked_broadcast()), 13u);  // the HLT
}

GUEST_CODE(masked_absent, "kxorw k1, k1, k1; mov edi, 0x3ff000; push 0x40202; popfq; vmovups [rdi]{k1}, zmm1; hlt")
TEST(Faults, AMaskedAccessOfNothingDoesNotFaultUnderAlignmentChecking) {
  if (!has(0xe6)) GTEST_SKIP() << "no AVX-512";
  FaultMachine m;
  EXPECT_EQ(m.vector_of(masked_absent()), 13u);  // the HLT
}

GUEST_CODE(byte_mask, "mov edi, 0x300001; push 0x40202; popfq; pxor xmm1, xmm1; maskmovdqu xmm0, xmm1; hlt")
GUEST_CODE(byte_mask_32, ".code32; mov edi, 0x300001; push 0x40202; popfd; pxor xmm1, xmm1; maskmovdqu xmm0, xmm1; hlt; .code64")
TEST(Faults, ByteMaskedStoresAreAlignmentCheckedWhateverTheirMask) {
  FaultMachine m, narrow;
  EXPECT_EQ(m.vector_of(byte_mask()), 17u);
  narrow.narrow();
  EXPECT_EQ(narrow.vector_of(byte_mask_32()), 17u);
}

GUEST_CODE(half_precision, "mov edi, 0x300001; push 0x40202; popfq; vcvtph2ps xmm1, [rdi]; hlt")
TEST(Faults, HalfPrecisionConversionsAreNeverAlignmentChecked) {
  if (!has(4)) GTEST_SKIP() << "no AVX";
  FaultMachine m;
  EXPECT_EQ(m.vector_of(half_precision()), 13u);  // the HLT
}

GUEST_CODE(misaligned_stack, "movabs rbp, 0x1234567890abcdef; push 0x40202; popfq; addps xmm1, [rbp]; hlt")
TEST(Faults, AMisalignedVectorIsGeneralProtectionBeforeItIsAStackFault) {
  FaultMachine m;
  EXPECT_EQ(m.vector_of(misaligned_stack()), 13u);
  EXPECT_EQ(m.vcpu->gpr[kRbp], 0x1234567890abcdefu);
}

// 32-bit code.

GUEST_CODE(push_all, ".code32; mov esp, 0x400008; pusha; hlt; .code64")
TEST(Faults, PushaFaultsAtTheFirstWordThatCannotBeStored) {
  FaultMachine m;
  m.narrow();
  m.vcpu->gpr[kRax] = 0x11111111;
  EXPECT_EQ(m.vector_of(push_all()), 14u);
  EXPECT_EQ(m.vcpu->cr2, 0x3ffffcu);
  EXPECT_EQ(m.at<uint32_t>(0x400004), 0x11111111u);
}

GUEST_CODE(pop_all, ".code32; mov esp, 0x3feffc; popa; hlt; .code64")
TEST(Faults, PopaHasLoadedWhatComesBeforeTheFault) {
  FaultMachine m;
  m.narrow();
  m.at<uint32_t>(0x3feffc) = 0x22222222;
  m.vcpu->gpr[kRsi] = 0x33333333;
  EXPECT_EQ(m.vector_of(pop_all()), 14u);
  EXPECT_EQ(m.vcpu->cr2, 0x3ff000u);
  EXPECT_EQ(m.vcpu->gpr[kRdi], 0x22222222u);
  EXPECT_EQ(m.vcpu->gpr[kRsi], 0x33333333u);
}

GUEST_CODE(bound_lower, ".code32; mov esi, 0x3feffc; mov dword ptr [esi], 5; mov eax, 4; .byte 0x62, 0x06; hlt; .code64")
TEST(Faults, BoundDoesNotReadTheUpperBoundWhereTheLowerDecides) {
  FaultMachine m;
  m.narrow();
  EXPECT_EQ(m.vector_of(bound_lower()), 5u);
}

GUEST_CODE(masked_to_code, ".code32; vpxor xmm1, xmm1, xmm1; mov edi, 0x300000; vpmaskmovd cs:[edi], xmm1, xmm0; mov eax, 1; hlt; .code64")
TEST(Faults, AMaskedStoreOfNothingIntoTheCodeSegmentDoesNotFault) {
  if (!has(4)) GTEST_SKIP() << "no AVX";
  FaultMachine m;
  m.narrow();
  EXPECT_EQ(m.vector_of(masked_to_code()), 13u);  // the HLT
  EXPECT_EQ(m.vcpu->gpr[kRax], 1u);
}

// 26 C4 E2 59 F7 10: SHLX EDX, [EAX], ESP
GUEST_CODE(narrow_vvvv, ".code32; mov esp, 4; mov eax, 0x300000; mov dword ptr [eax], 3; .byte 0xc4, 0xe2, 0x59, 0xf7, 0x10; hlt; .code64")
TEST(NarrowCode, TheStackPointerInVvvvIsNotAnotherRegister) {
  FaultMachine m;
  m.narrow();
  EXPECT_EQ(m.vector_of(narrow_vvvv()), 13u);
  EXPECT_EQ(m.vcpu->gpr[kRdx], 48u);
}

// C4 C1 50 59 C4: VMULPS XMM0, XMM5, XMM4 with VEX.B, which would be XMM12 in 64-bit mode. C4 E1 F9 7E 06: VMOVD [ESI], XMM0 with W.
GUEST_CODE(ignored_bits, ".code32; vpxor xmm4, xmm4, xmm4; mov esi, 0x300000; vpcmpeqd xmm0, xmm0, xmm0; .byte 0xc4, 0xe1, 0xf9, 0x7e, 0x06; "
                         ".byte 0xc4, 0xc1, 0x50, 0x59, 0xc4; vmovd eax, xmm0; hlt; .code64")
TEST(NarrowCode, IgnoresTheBitsOfVexThatNeed64BitMode) {
  if (!has(4)) GTEST_SKIP() << "no AVX";
  FaultMachine m;
  m.narrow();
  m.at(0x300000) = 0;
  memset(m.component(160 + 16 * 5), 0, 16);
  memset(m.component(160 + 16 * 12), 0x3f, 16);
  *reinterpret_cast<uint64_t*>(m.component(512)) |= 3;
  EXPECT_EQ(m.vector_of(ignored_bits()), 13u);
  EXPECT_EQ(m.at(0x300000), 0xffffffffu);
  EXPECT_EQ(m.vcpu->gpr[kRax], 0u);
}

GUEST_CODE(zero_upper, ".code32; vzeroupper; hlt; .code64")
TEST(NarrowCode, VzeroupperLeavesTheRegistersFrom8On) {
  if (!has(4)) GTEST_SKIP() << "no AVX";
  FaultMachine m;
  m.narrow();
  memset(m.component(576), 0x5a, 256);
  *reinterpret_cast<uint64_t*>(m.component(512)) |= 7;
  EXPECT_EQ(m.vector_of(zero_upper()), 13u);
  for (unsigned i = 0; i < 256; i++) EXPECT_EQ(*m.component(576 + i), i < 128 ? 0 : 0x5a) << i;
}

// Guests whose CPUID says AMD. Expected: a CPU of AMD's family 26.

struct AmdMachine : FaultMachine {
  AmdMachine() { vcpu->vendor_is_amd = true; }
};

TEST(AmdFaults, CmpsReadsRsiFirst) {
  AmdMachine m;
  EXPECT_EQ(m.vector_of(compare_two_pages()), 14u);
  EXPECT_EQ(m.vcpu->cr2, 0x3ff010u);
}

TEST(AmdFaults, AGatherThatFaultsTouchesNothingBehindTheElementsThatCame) {
  if (!has(4)) GTEST_SKIP() << "no AVX";
  AmdMachine m;
  m.vcpu->gpr[kRax] = 0x80000000;
  ASSERT_EQ(m.vector_of(gather_no_page()), 14u);
  uint32_t low[4], high[4];
  memcpy(low, m.component(160 + 16), 16);
  memcpy(high, m.component(576 + 16), 16);
  EXPECT_EQ(low[0], 0x80000000u);
  EXPECT_EQ(low[1], 0u);
  for (uint32_t h : high) EXPECT_EQ(h, 0xffffffffu);
}

GUEST_CODE(misaligned_vector, "mov edi, 0x300008; push 0x40202; popfq; movdqu xmm1, [rdi]; hlt")
GUEST_CODE(aligned_to_16, "mov edi, 0x300010; push 0x40202; popfq; vmovups ymm1, [rdi]; hlt")
TEST(AmdFaults, VectorsAreAlignmentCheckedTo16Bytes) {
  AmdMachine m;
  FaultMachine intel;
  EXPECT_EQ(m.vector_of(misaligned_vector()), 17u);
  EXPECT_EQ(intel.vector_of(misaligned_vector()), 13u);  // the HLT
  if (!has(4)) GTEST_SKIP() << "no AVX";
  AmdMachine wide;
  EXPECT_EQ(wide.vector_of(aligned_to_16()), 13u);
}

GUEST_CODE(half_of_an_element, "mov eax, 1; kmovw k1, eax; mov edi, 0x300004; push 0x40202; popfq; vmovupd zmm1{k1}, [rdi]; hlt")
GUEST_CODE(an_element, "mov eax, 1; kmovw k1, eax; mov edi, 0x300004; push 0x40202; popfq; vmovups zmm1{k1}, [rdi]; hlt")
GUEST_CODE(no_suppression, "kxorw k1, k1, k1; mov edi, 0x300004; push 0x40202; popfq; vpunpckldq zmm1{k1}, zmm1, [rdi]; hlt")
TEST(AmdFaults, MaskedAccessesAreAlignmentCheckedByTheElementOrAsAWhole) {
  if (!has(0xe6)) GTEST_SKIP() << "no AVX-512";
  AmdMachine half, element, whole;
  EXPECT_EQ(half.vector_of(half_of_an_element()), 17u);
  EXPECT_EQ(element.vector_of(an_element()), 13u);  // the HLT
  EXPECT_EQ(whole.vector_of(no_suppression()), 17u);
}

GUEST_CODE(misaligned_with_mm, "push 0x21f80; ldmxcsr [rsp]; mov edi, 0x300ff8; pminud xmm1, [rdi]; hlt")  // over two pages
GUEST_CODE(misaligned_move_with_mm, "push 0x21f80; ldmxcsr [rsp]; mov edi, 0x300ff8; movaps xmm1, [rdi]; hlt")
GUEST_CODE(misaligned_with_mm_checked, "push 0x21f80; ldmxcsr [rsp]; mov edi, 0x300ff8; push 0x40202; popfq; pminud xmm1, [rdi]; hlt")
GUEST_CODE(restore_mm, "mov edi, 0x300000; fxsave [rdi]; mov dword ptr [rdi + 24], 0x21f80; fxrstor [rdi]; hlt")
TEST(AmdFaults, MxcsrMmLetsComputingInstructionsHaveMisalignedOperands) {
  alignas(16) uint8_t image[512];
  asm volatile("fxsave (%0)" : : "r"(image) : "memory");
  uint32_t mask;
  memcpy(&mask, image + 28, 4);
  if (!(mask & kMxcsrMm)) GTEST_SKIP() << "this CPU's MXCSR has no MM";
  AmdMachine computing, move, checked, restore;
  EXPECT_EQ(computing.vector_of(misaligned_with_mm()), 13u);
  EXPECT_EQ(computing.fault_rip() - TestMachine::kCode, misaligned_with_mm().size() - 1);  // the HLT
  EXPECT_EQ(move.vector_of(misaligned_move_with_mm()), 13u);
  EXPECT_NE(move.fault_rip() - TestMachine::kCode, misaligned_move_with_mm().size() - 1);
  EXPECT_EQ(checked.vector_of(misaligned_with_mm_checked()), 17u);
  EXPECT_EQ(restore.vector_of(restore_mm()), 13u);
  EXPECT_EQ(restore.fault_rip() - TestMachine::kCode, restore_mm().size() - 1);
}

// VCVTNE2PS2BF16 ymm1{k1}, ymm1, [rdi], which not every assembler knows; EVEX type E4NF.
GUEST_CODE(two_to_bfloat16, "kxorw k1, k1, k1; mov edi, 0x300004; push 0x40202; popfq; .byte 0x62, 0xf2, 0x77, 0x29, 0x72, 0x0f; hlt")
TEST(AmdFaults, AConversionOfTwoSourcesIsAlignmentCheckedWhateverItsMask) {
  AmdMachine m;
  if (!has(0xe6) || !feature_enabled(*m.vcpu, Feature::kAvx512Bf16)) GTEST_SKIP() << "no AVX512_BF16";
  EXPECT_EQ(m.vector_of(two_to_bfloat16()), 17u);
}

GUEST_CODE(compress_without_mask, "mov edi, 0x300004; push 0x40202; popfq; vcompressps [rdi], zmm1; hlt")
GUEST_CODE(compress_with_mask, "kxnorw k1, k1, k1; mov edi, 0x300004; push 0x40202; popfq; vcompressps [rdi]{k1}, zmm1; hlt")
GUEST_CODE(expand_without_mask, "mov edi, 0x300001; push 0x40202; popfq; vpexpandd xmm1, [rdi]; hlt")
TEST(AmdFaults, CompressionsWithoutAMaskAreAlignmentCheckedAsAWhole) {
  if (!has(0xe6)) GTEST_SKIP() << "no AVX-512";
  AmdMachine without, with, expand;
  EXPECT_EQ(without.vector_of(compress_without_mask()), 17u);
  EXPECT_EQ(with.vector_of(compress_with_mask()), 13u);  // the HLT
  EXPECT_EQ(expand.vector_of(expand_without_mask()), 17u);
}

TEST(AmdFaults, HalfPrecisionConversionsAreAlignmentChecked) {
  if (!has(4)) GTEST_SKIP() << "no AVX";
  AmdMachine m;
  EXPECT_EQ(m.vector_of(half_precision()), 17u);
}

GUEST_CODE(far_offset, "movabs rcx, 0xffff7fffffe00000; mov al, gs:[rcx]; hlt")
TEST(AmdFaults, TheOffsetHasToBeCanonicalAsWellAsTheSum) {
  AmdMachine m;
  FaultMachine intel;
  for (FaultMachine* machine : {static_cast<FaultMachine*>(&m), &intel}) machine->vcpu->segment[kGS].base = 0x200000, machine->vcpu->state_changed();
  EXPECT_EQ(m.vector_of(far_offset()), 13u);
  EXPECT_EQ(m.vcpu->cr2, 0u);
  EXPECT_EQ(intel.vector_of(far_offset()), 14u);
  EXPECT_EQ(intel.vcpu->cr2, 0xffff800000000000u);
}

GUEST_CODE(prefetch_register, ".byte 0x0f, 0x0d, 0xc8; hlt")
TEST(AmdFaults, PrefetchOfARegisterIsUndefined) {
  AmdMachine m;
  FaultMachine intel;
  EXPECT_EQ(m.vector_of(prefetch_register()), 6u);
  EXPECT_EQ(intel.vector_of(prefetch_register()), 13u);  // the HLT
}

GUEST_CODE(movsxd_word, "mov ecx, 0x3feffe; .byte 0x66, 0x63, 0x01; hlt")  // movsxd ax, [rcx]
TEST(AmdFaults, MovsxdToAWordReads32Bits) {
  AmdMachine m;
  FaultMachine intel;
  intel.at<uint16_t>(0x3feffe) = 0x1234;
  intel.vcpu->gpr[kRax] = 0x5678;
  EXPECT_EQ(m.vector_of(movsxd_word()), 14u);
  EXPECT_EQ(m.vcpu->cr2, 0x3ff000u);
  EXPECT_EQ(intel.vector_of(movsxd_word()), 13u);
  EXPECT_EQ(intel.vcpu->gpr[kRax] & 0xffff, 0x1234u);
}

GUEST_CODE(bound_over_the_end, ".code32; mov esi, 0x3feffc; mov eax, -2; bound eax, [esi]; hlt; .code64")
TEST(AmdFaults, BoundReadsBothBoundsFirst) {
  AmdMachine m;
  FaultMachine intel;
  for (FaultMachine* machine : {static_cast<FaultMachine*>(&m), &intel}) machine->narrow();
  EXPECT_EQ(m.vector_of(bound_over_the_end()), 14u);
  EXPECT_EQ(intel.vector_of(bound_over_the_end()), 5u);
}

GUEST_CODE(extract_quadword, ".code32; .byte 0xc4, 0xe3, 0xf9, 0x16, 0xc8, 0x01; hlt; .code64")  // VPEXTRQ rax, xmm1, 1
TEST(AmdFaults, Vpextrd64IsUndefinedIn32BitCode) {
  if (!has(4)) GTEST_SKIP() << "no AVX";
  AmdMachine m;
  FaultMachine intel;
  for (FaultMachine* machine : {static_cast<FaultMachine*>(&m), &intel}) machine->narrow();
  EXPECT_EQ(m.vector_of(extract_quadword()), 6u);
  EXPECT_EQ(intel.vector_of(extract_quadword()), 13u);  // the HLT
}

// Whole elements in front of address 0, or in front of a page that the TLB once had: the sum with their length goes round.
GUEST_CODE(stos_top, "mov rdi, -8; mov ecx, 1; rep stosq; hlt")
GUEST_CODE(movs_top, "mov rsi, -8; mov edi, 0x300000; mov [rdi], edi; mov ecx, 1; rep movsq; hlt")
TEST(Faults, AStringAtTheEndOfTheAddressesIsAPageFault) {
  for (auto code : {stos_top(), movs_top()}) {
    FaultMachine m;
    EXPECT_EQ(m.vector_of(code), 14u);
  }
}
GUEST_CODE(touch_a_page, "mov ebx, 0x0ffff000; mov [rbx], ebx; hlt")
GUEST_CODE(stos_in_front, "movabs rdi, 0xaaaafffffffffff8; mov ecx, 2; mov rax, 0x5555; rep stosq; hlt")
TEST(Faults, AStringInFrontOfAnEntryThatIsNoLongerThereStoresNothing) {
  FaultMachine m;
  m.at(0x3000 + 127 * 8) = 0xe00000 | 0x87;
  ASSERT_EQ(m.vector_of(touch_a_page()), unsigned{kGP});
  m.at(0x3000 + 127 * 8) = 0;
  m.vcpu->segment[kCS] = Segment{0, 0xffffffff, 0x2b, 0xa0fb, false};
  m.vcpu->segment[kSS] = Segment{0, 0xffffffff, 0x23, 0xc0f3, false};
  m.vcpu->cpl = 3;
  m.vcpu->halted = false;
  m.vcpu->gpr[kRsp] = 0x200000;
  m.at(0xffeff8) = 1, m.at(0xfff000) = 2;
  EXPECT_EQ(m.vector_of(stos_in_front()), unsigned{kGP});
  EXPECT_EQ(m.at(0xffeff8), 1u);
  EXPECT_EQ(m.at(0xfff000), 2u);
}

// The IDT is a device's. Nothing of it is left behind: the next run goes on.
GUEST_CODE(undefined_and_halt, "ud2; hlt")
TEST(Faults, AnEventWhoseGateIsADevicesIsLostAndToldOf) {
  TestMachine m;
  m.at(0x3000 + 128 * 8) = 0x40000000 | 0x87;  // 256 MiB: no memory there
  m.vcpu->idtr = {0x10000000, 0xfff};
  for (int run = 0; run < 2; run++) {
    ASSERT_EQ(m.run(undefined_and_halt()), unsigned{KVM_EXIT_INTERNAL_ERROR});
    EXPECT_EQ(m.vcpu->run->internal.suberror, unsigned{KVM_INTERNAL_ERROR_DELIVERY_EV});
    EXPECT_EQ(m.vcpu->rip, TestMachine::kCode);
  }
  m.vcpu->rip += 2;
  EXPECT_EQ(m.go(), unsigned{KVM_EXIT_HLT});
}

// The addresses by which the TLB and the recent pages say that they hold nothing.
GUEST_CODE(nowhere_read, "movabs rbx, 0x5555000000000800; mov rax, [rbx]; hlt")
GUEST_CODE(nowhere_write, "movabs rbx, 0x5555000000000800; mov [rbx], rax; hlt")
GUEST_CODE(nowhere_group, "movabs rbx, 0x5555000000000800; mov rax, [rbx]; mov rcx, [rbx + 8]; hlt")
GUEST_CODE(nowhere_next, "movabs rbx, 0x5555000000001800; mov rax, [rbx]; hlt")
GUEST_CODE(nowhere_stos, "movabs rdi, 0x5555000000000800; mov ecx, 1; rep stosq; hlt")
GUEST_CODE(nowhere_long_stos, "movabs rdi, 0x5555000000000000; mov ecx, 600; rep stosq; hlt")
GUEST_CODE(nowhere_lods, "movabs rsi, 0x5555000000000800; mov ecx, 1; rep lodsq; hlt")
GUEST_CODE(nowhere_xlat, "movabs rbx, 0x5555000000000800; xlatb; hlt")
GUEST_CODE(nowhere_pop, "movabs rsp, 0x5555000000000800; pop rax; hlt")
GUEST_CODE(nowhere_push, "movabs rsp, 0x5555000000000800; push rax; hlt")
TEST(Faults, TheAddressOfNothingIsNotCanonical) {
  for (auto code : {nowhere_read(), nowhere_write(), nowhere_group(), nowhere_next(), nowhere_stos(), nowhere_long_stos(), nowhere_lods(), nowhere_xlat()}) {
    FaultMachine m;
    EXPECT_EQ(m.vector_of(code), unsigned{kGP}) << m.result;
  }
  for (auto code : {nowhere_pop(), nowhere_push()}) {
    FaultMachine m;
    EXPECT_EQ(m.vector_of(code), unsigned{kSSv}) << m.result;
  }
}
// Behind a read, and behind a write beside code: the TLB has a page there, and no write tag.
GUEST_CODE(nowhere_behind_a_read, "mov ebx, 0x10000000; mov rax, [rbx]; movabs rcx, 0x5555000000000800; mov rdx, 0x41414141; mov [rcx], rdx; hlt")
GUEST_CODE(nowhere_behind_a_write, "mov ebx, 0x10000000; mov [rbx], rax; movabs rcx, 0x5555000000000800; mov [rcx], rax; hlt")
TEST(Faults, TheAddressOfNothingIsNotThePageThatWasThere) {
  FaultMachine m;
  m.at(0x3000 + 128 * 8) = 0xe00000 | 0x85;  // not writable
  m.at(0xe00800) = 7;
  EXPECT_EQ(m.vector_of(nowhere_behind_a_read()), unsigned{kGP}) << m.result;
  EXPECT_EQ(m.at(0xe00800), 7u);
  FaultMachine other;
  other.at(0x3000 + 128 * 8) = 0xe00000 | 0x87;
  EXPECT_EQ(other.vector_of(nowhere_behind_a_write()), unsigned{kGP}) << other.result;
}
GUEST_CODE(nowhere_jump, "mov ebx, 0x1000000; xor eax, eax; call rbx; invlpg [rbx]; movabs rdx, 0x5555000000000000; jmp rdx")
TEST(Faults, TheAddressOfNothingIsNotThePageThatInvlpgHasDropped) {
  TestMachine m;
  m.at(0x3000 + 8 * 8) = 0x400087;  // 16 MiB: 4 MiB
  m.at(0x400000) = 0xc3c0ff;        // inc eax; ret
  EXPECT_EQ(m.run(nowhere_jump()), unsigned{KVM_EXIT_SHUTDOWN});
  EXPECT_EQ(m.vcpu->gpr[kRax], 1u);
}

// A group whose first access comes before the others by more than a displacement can say.
GUEST_CODE(far_group, "mov ebx, 0x300000; xor ecx, ecx; jmp 1f; 1: add rcx, 0x10000000; mov rax, [rbx + rcx * 8 - 0x80000000]; dec rcx; mov rdx, [rbx + rcx * 8 - 0x80000000]; hlt")
TEST(Faults, AGroupAtTheLeastDisplacementIsWhereItShouldBe) {
  FaultMachine m;
  m.at(0x300000) = 0x11, m.at(0x2ffff8) = 0x22;
  EXPECT_EQ(m.vector_of(far_group()), unsigned{kGP}) << m.result;  // its HLT
  EXPECT_EQ(m.vcpu->gpr[kRax], 0x11u);
  EXPECT_EQ(m.vcpu->gpr[kRdx], 0x22u);
}
GUEST_CODE(far_jump, ".byte 0xe9, 0xff, 0xff, 0xff, 0x7f")
TEST(Faults, AJumpForwardByAlmost2GiBGoesForward) {
  FaultMachine m;
  EXPECT_EQ(m.vector_of(far_jump()), 14u);
  EXPECT_EQ(m.vcpu->cr2, 0x80100004u);
}

GUEST_CODE(masked_beside_nothing, "mov edi, 0x3feff0; vpcmpeqd xmm1, xmm1, xmm1; vpmaskmovd ymm3, ymm1, [rdi]; hlt")
TEST(Faults, AMaskedLoadFromADeviceBesideAnAbsentPageAsksTheDevice) {
  FaultMachine m;
  if (!(m.vcpu->xcr0 & 4)) GTEST_SKIP() << "no AVX here";
  m.at(FaultMachine::kTable + 510 * 8) = 0x10000007;
  ASSERT_EQ(m.run(masked_beside_nothing()), unsigned{KVM_EXIT_MMIO});
  EXPECT_EQ(m.vcpu->run->mmio.phys_addr, 0x10000ff0u);
  for (uint8_t& byte : m.vcpu->run->mmio.data) byte = 0x5a;
  ASSERT_EQ(m.go(), unsigned{KVM_EXIT_MMIO});
  ASSERT_EQ(m.go(), unsigned{KVM_EXIT_HLT});
}

GUEST_CODE(reads_memory_that_is_gone, "mov ebx, 0x300000; mov rax, [rbx]; hlt")
TEST(Faults, MemoryOfTheHostsThatIsGoneIsNoFaultOfTheGuests) {
  FaultMachine m;
  ASSERT_EQ(mprotect(m.ram + 0x300000, 4096, PROT_NONE), 0);
  m.run(reads_memory_that_is_gone());
  EXPECT_EQ(m.result, -EFAULT);
  EXPECT_EQ(m.vcpu->rip, FaultMachine::kCode + 5);
}

// SDM vol 2, table "#UD if CR4.OSFXSR = 0" (vol 3, 2.5): of all that names an XMM register, MMX registers beside it or not; MMX alone needs it not.
GUEST_CODE(to_mmx, "cvtps2pi mm0, xmm1; hlt")
GUEST_CODE(from_mmx, "cvtpi2ps xmm0, mm1; hlt")
GUEST_CODE(move_to_mmx, "movdq2q mm0, xmm1; hlt")
GUEST_CODE(move_from_mmx, "movq2dq xmm1, mm0; hlt")
GUEST_CODE(mmx_alone, "paddb mm0, mm1; hlt")
TEST(Faults, InstructionsOfMmxAndXmmRegistersNeedOsfxsr) {
  for (auto code : {to_mmx(), from_mmx(), move_to_mmx(), move_from_mmx()})
    for (bool set : {true, false}) {
      FaultMachine m;
      if (!set) m.vcpu->cr4 &= ~kCr4Osfxsr;
      EXPECT_EQ(m.vector_of(code), set ? 13u : 6u);  // HLT is #GP
    }
  FaultMachine m;
  m.vcpu->cr4 &= ~kCr4Osfxsr;
  EXPECT_EQ(m.vector_of(mmx_alone()), 13u);
}

// SDM vol 3, 2.5, OSXMMEXCPT.
GUEST_CODE(divide_by_zero, "mov dword ptr [rsp - 8], 0x1d80; ldmxcsr [rsp - 8]; xorps xmm1, xmm1; pcmpeqd xmm0, xmm0; psrld xmm0, 25; pslld xmm0, 23; divps xmm0, xmm1; hlt")
TEST(Faults, ASimdExceptionWithoutOsxmmexcptIsUndefined) {
  for (bool set : {true, false}) {
    FaultMachine m;
    if (!set) m.vcpu->cr4 &= ~kCr4Osxmmexcpt;
    EXPECT_EQ(m.vector_of(divide_by_zero()), set ? 19u : 6u);
  }
}

}  // namespace
}  // namespace vireo::softkvm
