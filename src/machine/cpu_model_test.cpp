// SPDX-License-Identifier: Apache-2.0
#include "machine/cpu_model.h"

#include <gtest/gtest.h>

#include <cstring>

namespace vireo {
namespace {

// An AMD CPU with PKU: leaf 0xD as the manuals lay out x87, SSE, AVX and PKRU (SDM vol 1, 13.5; AMD's offsets).
std::vector<kvm_cpuid_entry2> offer() {
  return {
      {.function = 0, .eax = 0xd, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65},
      {.function = 1, .ecx = 1u << 17 | 1u << 21 | 1u << 26 | 1u << 28},
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
  EXPECT_EQ(find(*cpu, 1)->ecx, 1u << 21 | 1u << 26 | 1u << 28);
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

// Everything that a CPU may have, and a host's marks.
std::vector<kvm_cpuid_entry2> wide_offer() {
  constexpr uint32_t kAll = ~0u;
  std::vector<kvm_cpuid_entry2> all{
      {.function = 0, .eax = 0x1f, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
      {.function = 1, .eax = 0x806f8, .ecx = kAll, .edx = kAll},
      {.function = 7, .eax = 2, .ebx = kAll, .ecx = kAll, .edx = kAll},
      {.function = 7, .index = 1, .eax = kAll},
      {.function = 0xd, .eax = 0x2e7, .ecx = 2696},
      {.function = 0xd, .index = 1, .eax = kAll},
      {.function = 0x19, .eax = 1},
      {.function = 0x80000000, .eax = 0x80000021, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
      {.function = 0x80000001, .ecx = kAll, .edx = kAll},
      {.function = 0x80000002}, {.function = 0x80000003}, {.function = 0x80000004},
      {.function = 0x80000008, .eax = 48 | 57 << 8, .ebx = kAll},
      {.function = 0x80000021, .eax = kAll},
  };
  constexpr uint32_t kSizes[][3] = {{2, 256, 576}, {5, 64, 1088}, {6, 512, 1152}, {7, 1024, 1664}, {9, 8, 2688}};
  for (auto [index, size, offset] : kSizes) all.push_back({.function = 0xd, .index = index, .eax = size, .ebx = offset});
  return all;
}

// x86-64 psABI, table 3.1; bits of Intel SDM vol 2, CPUID.
TEST(CpuModel, ALevelHasWhatThePsabiNamesAndNothingElse) {
  auto cpu = apply_cpu_model(*parse_cpu_model("x86-64-v3"), wide_offer());
  ASSERT_TRUE(cpu);
  // SSE3 SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT XSAVE AVX F16C
  EXPECT_EQ(find(*cpu, 1)->ecx & ~(1u << 21 | 1u << 27 | 1u << 31),
            1u | 1u << 9 | 1u << 12 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 22 | 1u << 23 | 1u << 26 | 1u << 28 | 1u << 29);
  EXPECT_EQ(find(*cpu, 7)->ebx, 1u << 3 | 1u << 5 | 1u << 8);  // BMI1 AVX2 BMI2
  EXPECT_EQ(find(*cpu, 7)->ecx | find(*cpu, 7)->edx | find(*cpu, 7)->eax, 0u);
  EXPECT_EQ(find(*cpu, 0x80000001)->ecx & ~2u, 1u | 1u << 5);  // LAHF LZCNT
  EXPECT_EQ(find(*cpu, 0x80000001)->edx, 1u << 11 | 1u << 20 | 1u << 29);
  EXPECT_EQ(find(*cpu, 0xd)->eax, 7u);
  EXPECT_EQ(find(*cpu, 0xd)->ecx, 832u);
  EXPECT_EQ(find(*cpu, 0x19), nullptr);
  EXPECT_EQ(find(*cpu, 0x80000021), nullptr);
  EXPECT_EQ(find(*cpu, 0)->ebx, 0x756e6547u);  // the host's vendor
  auto wider = apply_cpu_model(*parse_cpu_model("x86-64-v4"), wide_offer());
  EXPECT_EQ(find(*wider, 0xd)->eax, 0xe7u);
  auto narrow = apply_cpu_model(*parse_cpu_model("x86-64-v2"), wide_offer());
  EXPECT_EQ(find(*narrow, 0xd), nullptr);
  EXPECT_EQ(find(*narrow, 0)->eax, 0xbu);
}

TEST(CpuModel, ANamedCpuHasItsVendorSignatureAndBrand) {
  auto cpu = apply_cpu_model(*parse_cpu_model("EPYC-Milan,-pku"), wide_offer());
  ASSERT_TRUE(cpu);
  EXPECT_EQ(find(*cpu, 0)->ebx, 0x68747541u);
  EXPECT_EQ(find(*cpu, 1)->eax, 0xa00f11u);  // family 25, model 1, stepping 1
  EXPECT_EQ(memcmp(&find(*cpu, 0x80000002)->eax, "AMD ", 4), 0);
  EXPECT_EQ(find(*cpu, 0x80000001)->edx & 0x3ff, find(*cpu, 1)->edx & 0x3ff);  // AMD's copies
  EXPECT_EQ(find(*cpu, 0xd)->eax, 7u);
  for (const NamedCpu& named : named_cpus()) EXPECT_TRUE(apply_cpu_model(*parse_cpu_model(named.name), wide_offer())) << named.name;
}

TEST(CpuModel, ANamedCpuThatTheHostCannotHaveIsRefusedWithWhatIsMissing) {
  auto offer = wide_offer();
  for (auto& e : offer)
    if (e.function == 7) e.ebx &= ~(1u << 5 | 1u << 8);
  auto cpu = apply_cpu_model(*parse_cpu_model("x86-64-v3"), offer);
  ASSERT_FALSE(cpu);
  EXPECT_EQ(cpu.error().message, "--cpu x86-64-v3: the hypervisor does not offer avx2 bmi2");
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
