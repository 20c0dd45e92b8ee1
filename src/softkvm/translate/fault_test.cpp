// SPDX-License-Identifier: Apache-2.0
// Which fault an instruction ends with, and what it leaves behind, where several would do. Expected values are the bare CPU's: a random block
// found each of them.
#include <gtest/gtest.h>

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
TEST(Faults, ByteMaskedStoresAreAlignmentCheckedWhateverTheirMask) {
  FaultMachine m;
  EXPECT_EQ(m.vector_of(byte_mask()), 17u);
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

}  // namespace
}  // namespace vireo::softkvm
