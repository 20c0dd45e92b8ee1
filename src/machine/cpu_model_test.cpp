// SPDX-License-Identifier: Apache-2.0
#include "machine/cpu_model.h"

#include <gtest/gtest.h>

namespace vireo {
namespace {

// An AMD CPU with PKU: leaf 0xD as the manuals lay out x87, SSE, AVX and PKRU (SDM vol 1, 13.5; AMD's offsets).
std::vector<kvm_cpuid_entry2> offer() {
  return {
      {.function = 0, .eax = 0xd, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65},
      {.function = 1, .ecx = 1u << 17 | 1u << 21},
      {.function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ebx = 1u << 10, .ecx = 1u << 3 | 1u << 31},
      {.function = 0xd, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 0x207, .ebx = 576, .ecx = 840},
      {.function = 0xd, .index = 2, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 256, .ebx = 576},
      {.function = 0xd, .index = 9, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 8, .ebx = 832},
      {.function = 0x80000000, .eax = 0x80000008, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65},
      {.function = 0x80000008, .eax = 48 | 57 << 8},
  };
}

const kvm_cpuid_entry2* find(const std::vector<kvm_cpuid_entry2>& all, uint32_t function, uint32_t index = 0) {
  for (const auto& e : all)
    if (e.function == function && e.index == index) return &e;
  return nullptr;
}

TEST(CpuModel, HostLeavesOutProtectionKeysAndTheirState) {
  auto cpu = apply_cpu_model(*parse_cpu_model("host"), offer());
  ASSERT_TRUE(cpu);
  EXPECT_EQ(find(*cpu, 7)->ecx, 0u);
  EXPECT_EQ(find(*cpu, 0xd)->eax, 7u);
  EXPECT_EQ(find(*cpu, 0xd)->ecx, 832u);
  EXPECT_EQ(find(*cpu, 0xd, 9), nullptr);
}

TEST(CpuModel, MaxIsTheOffer) {
  auto cpu = apply_cpu_model(*parse_cpu_model("max"), offer());
  ASSERT_TRUE(cpu);
  EXPECT_EQ(find(*cpu, 7)->ecx, 1u << 3 | 1u << 31);
  EXPECT_EQ(find(*cpu, 0xd)->eax, 0x207u);
  EXPECT_NE(find(*cpu, 0xd, 9), nullptr);
}

TEST(CpuModel, FeaturesComeAndGoByName) {
  auto cpu = apply_cpu_model(*parse_cpu_model("host,+pku,-pcid,-invpcid"), offer());
  ASSERT_TRUE(cpu);
  EXPECT_EQ(find(*cpu, 7)->ecx, 1u << 3);
  EXPECT_EQ(find(*cpu, 7)->ebx, 0u);
  EXPECT_EQ(find(*cpu, 1)->ecx, 1u << 21);
  EXPECT_EQ(find(*cpu, 0xd)->eax, 0x207u);
}

TEST(CpuModel, TheVendorAndTheAddressWidthAreReplaced) {
  auto cpu = apply_cpu_model(*parse_cpu_model("max,vendor=GenuineIntel,physical-bits=36"), offer());
  ASSERT_TRUE(cpu);
  for (uint32_t f : {0u, 0x80000000u}) {
    EXPECT_EQ(find(*cpu, f)->ebx, 0x756e6547u);  // Genu
    EXPECT_EQ(find(*cpu, f)->edx, 0x49656e69u);  // ineI
    EXPECT_EQ(find(*cpu, f)->ecx, 0x6c65746eu);  // ntel
  }
  EXPECT_EQ(find(*cpu, 0x80000008)->eax, 36u | 57 << 8);
}

TEST(CpuModel, WhatIsNotOfferedIsRefused) {
  EXPECT_NE(apply_cpu_model(*parse_cpu_model("max,+smap"), offer()).error().message.find("+smap"), std::string::npos);
  EXPECT_FALSE(apply_cpu_model(*parse_cpu_model("max,physical-bits=52"), offer()));
}

TEST(CpuModel, WordsThatMeanNothingAreRefused) {
  for (const char* bad : {"", "qemu64", "max,", "max,pku", "max,+warp", "max,vendor=Intel", "max,physical-bits=35", "max,physical-bits=4x", "-pku"})
    EXPECT_FALSE(parse_cpu_model(bad)) << bad;
}

}  // namespace
}  // namespace vireo
