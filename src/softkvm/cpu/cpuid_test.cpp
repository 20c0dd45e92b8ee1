// SPDX-License-Identifier: Apache-2.0
// CPUID: what is passed, what is ours, what follows the vCPU's state. Expected: Intel SDM vol 2, CPUID; softkvm's design for the two kinds.
#include <gtest/gtest.h>

#include <algorithm>

#include "softkvm/cpu/cpuid_supported.h"
#include "softkvm/cpu/feature_enabled.h"
#include "softkvm/cpu/system_fake.h"

namespace vireo::softkvm {
namespace {

// A host that has every bit of every leaf, with the XSAVE layout of an Intel CPU.
CpuidEntry lavish(uint32_t function, uint32_t index) {
  CpuidEntry e{function, index, 0, ~0u, ~0u, ~0u, ~0u};
  if (function == 0) e = {0, 0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69};
  if (function == 0x80000000) e.eax = 0x80000021;
  if (function == 0x80000008) e.eax = 52 | 57 << 8;
  if (function == 1) e.eax = 0x806f8;
  if (function == 7 && index == 0) e.eax = 2;
  if (function == 0xd && index > 1) {
    static const uint32_t kLayout[][3] = {{2, 256, 576}, {5, 64, 1088}, {6, 512, 1152}, {7, 1024, 1664}, {9, 8, 2688}};
    e.eax = e.ebx = e.ecx = e.edx = 0;
    for (auto& l : kLayout)
      if (l[0] == index) e.eax = l[1], e.ebx = l[2];
  }
  return e;
}
CpuidEntry bare_bones(uint32_t function, uint32_t index) {
  CpuidEntry e{function, index};
  if (function == 0) e = {0, 0, 0, 1, 0x756e6547, 0x6c65746e, 0x49656e69};
  if (function == 0x80000000) e.eax = 0x80000008;
  if (function == 0x80000008) e.eax = 40;
  return e;
}
CpuidEntry find(const std::vector<CpuidEntry>& list, uint32_t function, uint32_t index = 0) {
  for (const CpuidEntry& e : list)
    if (e.function == function && e.index == index) return e;
  return {};
}

TEST(SupportedCpuid, NeverHasWhatIsNotThere) {
  auto list = supported_cpuid({lavish, ~0ull}, {.paravirtual = kParavirtualClock});
  CpuidTable t = *make_cpuid_table(list);
  for (unsigned bit : {kCpuidVmx, kCpuidSvm, kCpuidRtm, cpuid_bit(kWord7Ebx, 4) /*HLE*/, cpuid_bit(kWord7Ebx, 14) /*MPX*/,
                       cpuid_bit(kWord7Ecx, 7) /*SHSTK*/, cpuid_bit(kWord7Edx, 20) /*IBT*/, cpuid_bit(kWord7Edx, 22) /*AMX*/,
                       cpuid_bit(kWord7Edx, 24), cpuid_bit(kWord7Edx, 25), cpuid_bit(kWord7Edx, 5) /*UINTR*/, cpuid_bit(kWord1Ecx, 15) /*PDCM*/,
                       kCpuidMonitor, cpuid_bit(kWord1Ecx, 27) /*OSXSAVE*/, cpuid_bit(kWord1Edx, 28), cpuid_bit(kWord7Ecx, 5) /*WAITPKG*/})
    EXPECT_FALSE(t.has(bit)) << bit / 32 << ":" << bit % 32;
  EXPECT_EQ(find(list, 0xa).eax, 0u);  // no PMU
  EXPECT_EQ(t.xcr0_supported, 0xe7u);
}

TEST(SupportedCpuid, SystemFeaturesAreOursOnEveryHost) {
  CpuidTable t = *make_cpuid_table(supported_cpuid({bare_bones, 0}, {}));
  for (unsigned bit : {kCpuidPcid, kCpuidSmep, kCpuidSmap, kCpuidUmip, kCpuidFsgsbase, kCpuidLa57, kCpuidRdtscp, kCpuidRdpid, kCpuidX2apic,
                       kCpuidTscDeadline, kCpuidInvpcid, kCpuidPge, kCpuidPse, kCpuidPae, kCpuidNx, kCpuidGbPages, kCpuidLongMode,
                       kCpuidSyscall, kCpuidArchCapabilities, kCpuidTscAdjust, cpuid_bit(kWord7Ebx, 9), cpuid_bit(kWord7Edx, 4)})
    EXPECT_TRUE(t.has(bit)) << bit / 32 << ":" << bit % 32;
  EXPECT_FALSE(t.has(kCpuidXsave));
  EXPECT_FALSE(t.has(cpuid_bit(kWord1Ecx, 28)));
  EXPECT_EQ(t.physical_bits, 40);
}

TEST(SupportedCpuid, VectorFeaturesNeedTheHostsXcr0) {
  auto with = [](uint64_t xcr0) { return *make_cpuid_table(supported_cpuid({lavish, xcr0}, {})); };
  EXPECT_TRUE(with(0xe7).has(cpuid_bit(kWord7Ebx, 16)));
  EXPECT_FALSE(with(7).has(cpuid_bit(kWord7Ebx, 16)));
  EXPECT_TRUE(with(7).has(cpuid_bit(kWord7Ebx, 5)));
  EXPECT_FALSE(with(3).has(cpuid_bit(kWord7Ebx, 5)));
  EXPECT_FALSE(with(3).has(cpuid_bit(kWord1Ecx, 12)));
}

TEST(SupportedCpuid, PkuBringsItsComponent) {
  auto list = supported_cpuid({lavish, 0xe7}, {.pku = true});
  CpuidTable t = *make_cpuid_table(list);
  EXPECT_TRUE(t.has(kCpuidPku));
  EXPECT_EQ(t.xcr0_supported, 0x2e7u);
  EXPECT_EQ(t.xsave_component[9].size, 8u);
  EXPECT_EQ(t.xsave_component[9].offset, 2688u);  // behind the rest
  EXPECT_EQ(t.xsave_size(0x2e7), 2696u);
}

TEST(SupportedCpuid, SaysWhoWeAre) {
  auto list = supported_cpuid({lavish, 7}, {.paravirtual = kParavirtualClock});
  CpuidEntry e = find(list, 0x40000000);
  EXPECT_EQ(std::string(reinterpret_cast<char*>(&e.ebx), 9), "KVMKVMKVM");
  EXPECT_EQ(find(list, 0x40000001).eax, 0x0100000bu);
  EXPECT_EQ(find(list, 0).ebx, 0x756e6547u);
}

TEST(SupportedCpuid, OfThisHostIsWithinItsOwn) {
  CpuidHost host = CpuidHost::bare();
  auto list = supported_cpuid(host, {});
  EXPECT_LE(list.size(), 80u);
  CpuidEntry seven = host.query(7, 0);
  constexpr uint32_t kOurs = 1 << 0 | 1 << 1 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 20;
  EXPECT_EQ(find(list, 7).ebx & ~kOurs & ~seven.ebx, 0u);
}

TEST(Cpuid, FollowsState) {
  Machine m;
  m.long_mode(0);
  auto table = make_cpuid_table(supported_cpuid({lavish, 0xe7}, {.pku = true}));
  m.v.cpuid = table.get();
  auto osxsave = [&] { return cpuid(m.v, 1, 0).ecx >> 27 & 1; };
  EXPECT_EQ(osxsave(), 0u);
  m.v.cr4 |= kCr4Osxsave | kCr4Pke;
  EXPECT_EQ(osxsave(), 1u);
  EXPECT_EQ(cpuid(m.v, 7, 0).ecx >> 4 & 1, 1u);  // OSPKE
  EXPECT_EQ(cpuid(m.v, 1, 0).edx >> 9 & 1, 1u);
  m.apic_base = 0xfee00000;
  EXPECT_EQ(cpuid(m.v, 1, 0).edx >> 9 & 1, 0u);
  for (auto [xcr0, size] : {std::pair<uint64_t, uint32_t>{1, 576}, {3, 576}, {7, 832}, {0xe7, 2688}, {0x2e7, 2696}}) {
    m.v.xcr0 = xcr0;
    EXPECT_EQ(cpuid(m.v, 0xd, 0).ebx, size) << xcr0;
  }
  m.v.xcr0 = 0xe7;
  EXPECT_EQ(cpuid(m.v, 0xd, 1).ebx, 576u + 256 + 64 + 512 + 1024);
}

TEST(Cpuid, BeyondTheRangeIsTheHighestBasicLeafOnIntelAndZeroOnAmd) {
  Machine m;
  CpuidEntry entries[3] = {{0, 0, 0, 2, 0x756e6547, 0x6c65746e, 0x49656e69}, {2, 0, 0, 1, 2, 3, 4}, {0x80000000, 0, 0, 0x80000000, 0, 0, 0}};
  auto intel = make_cpuid_table(entries);
  m.v.cpuid = intel.get();
  EXPECT_EQ(cpuid(m.v, 0x33, 0).edx, 4u);
  EXPECT_EQ(cpuid(m.v, 0x80000001, 0).edx, 4u);
  EXPECT_EQ(cpuid(m.v, 1, 0).edx, 0u);  // within the range, but not there
  entries[0].ebx = 0x68747541;
  auto amd = make_cpuid_table(entries);
  m.v.cpuid = amd.get();
  EXPECT_EQ(cpuid(m.v, 0x33, 0).edx, 0u);
}

TEST(Cpuid, FaultsAboveLevel0WhenAsked) {
  Machine m;
  m.long_mode(3);
  m.v.gpr[kRax] = 0x40000000;
  EXPECT_EQ(m.execute({0x0f, 0xa2}), Outcome::kNext);
  m.v.msr.misc_features = 1;
  EXPECT_EQ(m.execute({0x0f, 0xa2}), Outcome::kFault);
  EXPECT_EQ(m.v.fault.vector, kGP);
}

TEST(FeatureEnabled, AsksTheGuestsCpuid) {
  Machine m;
  m.set_feature(cpuid_bit(kWord7Ebx, 5));
  EXPECT_TRUE(feature_enabled(m.v, Feature::kAvx2));
  m.set_feature(cpuid_bit(kWord7Ebx, 5), false);
  EXPECT_FALSE(feature_enabled(m.v, Feature::kAvx2));
  EXPECT_TRUE(feature_enabled(m.v, Feature::kNone));
  EXPECT_FALSE(feature_enabled(m.v, Feature::kSnp));
}

}  // namespace
}  // namespace vireo::softkvm
