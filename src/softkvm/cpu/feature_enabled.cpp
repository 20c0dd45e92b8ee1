// SPDX-License-Identifier: Apache-2.0
// Does the guest's CPUID have the feature an encoding needs? Spec: Intel SDM vol 2, CPUID; AMD APM vol 3, appendix E.
#include "softkvm/cpu/feature_enabled.h"

#include "softkvm/cpu/cpuid.h"

namespace vireo::softkvm {

namespace {

constexpr uint16_t kAlways = 0xffff, kNever = 0xfffe;

// The CPUID bit of each feature.
constexpr uint16_t bit_of(Feature f) {
  using F = Feature;
  auto bit = [](CpuidWord w, unsigned b) { return static_cast<uint16_t>(cpuid_bit(w, b)); };
  switch (f) {
    case F::kNone: return kAlways;
    case F::kFpu: return bit(kWord1Edx, 0);
    case F::kTsc: return bit(kWord1Edx, 4);
    case F::kMsr: return bit(kWord1Edx, 5);
    case F::kCx8: return bit(kWord1Edx, 8);
    case F::kSep: return bit(kWord1Edx, 11);
    case F::kCmov: return bit(kWord1Edx, 15);
    case F::kClfsh: return bit(kWord1Edx, 19);
    case F::kMmx: return bit(kWord1Edx, 23);
    case F::kFxsr: return bit(kWord1Edx, 24);
    case F::kSse: return bit(kWord1Edx, 25);
    case F::kSse2: return bit(kWord1Edx, 26);
    case F::kSse3: return bit(kWord1Ecx, 0);
    case F::kPclmulqdq: return bit(kWord1Ecx, 1);
    case F::kMonitor: return kAlways;  // monitor_mwait() decides: a quirk of KVM lets it run without its bit
    case F::kVmx: return bit(kWord1Ecx, 5);
    case F::kSmx: return bit(kWord1Ecx, 6);
    case F::kSsse3: return bit(kWord1Ecx, 9);
    case F::kFma: return bit(kWord1Ecx, 12);
    case F::kCx16: return bit(kWord1Ecx, 13);
    case F::kSse41: return bit(kWord1Ecx, 19);
    case F::kSse42: return bit(kWord1Ecx, 20);
    case F::kMovbe: return bit(kWord1Ecx, 22);
    case F::kPopcnt: return bit(kWord1Ecx, 23);
    case F::kAes: return bit(kWord1Ecx, 25);
    case F::kXsave: return bit(kWord1Ecx, 26);
    case F::kAvx: return bit(kWord1Ecx, 28);
    case F::kF16c: return bit(kWord1Ecx, 29);
    case F::kRdrand: return bit(kWord1Ecx, 30);
    case F::kFsgsbase: return bit(kWord7Ebx, 0);
    case F::kBmi1: return bit(kWord7Ebx, 3);
    case F::kAvx2: return bit(kWord7Ebx, 5);
    case F::kBmi2: return bit(kWord7Ebx, 8);
    case F::kInvpcid: return bit(kWord7Ebx, 10);
    case F::kRtm: return bit(kWord7Ebx, 11);
    case F::kAvx512f: return bit(kWord7Ebx, 16);
    case F::kAvx512dq: return bit(kWord7Ebx, 17);
    case F::kRdseed: return bit(kWord7Ebx, 18);
    case F::kAdx: return bit(kWord7Ebx, 19);
    case F::kSmap: return bit(kWord7Ebx, 20);
    case F::kAvx512Ifma: return bit(kWord7Ebx, 21);
    case F::kClflushopt: return bit(kWord7Ebx, 23);
    case F::kClwb: return bit(kWord7Ebx, 24);
    case F::kAvx512cd: return bit(kWord7Ebx, 28);
    case F::kSha: return bit(kWord7Ebx, 29);
    case F::kAvx512bw: return bit(kWord7Ebx, 30);
    case F::kAvx512Vbmi: return bit(kWord7Ecx, 1);
    case F::kPku: return bit(kWord7Ecx, 3);
    case F::kWaitpkg: return bit(kWord7Ecx, 5);
    case F::kAvx512Vbmi2: return bit(kWord7Ecx, 6);
    case F::kGfni: return bit(kWord7Ecx, 8);
    case F::kVaes: return bit(kWord7Ecx, 9);
    case F::kVpclmulqdq: return bit(kWord7Ecx, 10);
    case F::kAvx512Vnni: return bit(kWord7Ecx, 11);
    case F::kAvx512Bitalg: return bit(kWord7Ecx, 12);
    case F::kAvx512Vpopcntdq: return bit(kWord7Ecx, 14);
    case F::kRdpid: return bit(kWord7Ecx, 22);
    case F::kCldemote: return bit(kWord7Ecx, 25);
    case F::kMovdiri: return bit(kWord7Ecx, 27);
    case F::kMovdir64b: return bit(kWord7Ecx, 28);
    case F::kEnqcmd: return bit(kWord7Ecx, 29);
    case F::kAvx512Vp2intersect: return bit(kWord7Edx, 8);
    case F::kSerialize: return bit(kWord7Edx, 14);
    case F::kTsxldtrk: return bit(kWord7Edx, 16);
    case F::kPconfig: return bit(kWord7Edx, 18);
    case F::kAvx512Fp16: return bit(kWord7Edx, 23);
    case F::kAvxVnni: return bit(kWord71Eax, 4);
    case F::kAvx512Bf16: return bit(kWord71Eax, 5);
    case F::kHreset: return bit(kWord71Eax, 22);
    case F::kAvxIfma: return bit(kWord71Eax, 23);
    case F::kXsaveopt: return bit(kWordD1Eax, 0);
    case F::kXsavec: return bit(kWordD1Eax, 1);
    case F::kXsaves: return bit(kWordD1Eax, 3);
    case F::kPtwrite: return bit(kWord14Ebx, 4);
    case F::kLahf64: return bit(kWordExt1Ecx, 0);
    case F::kSvm: return bit(kWordExt1Ecx, 2);
    case F::kLzcnt: return bit(kWordExt1Ecx, 5);
    case F::kSse4a: return bit(kWordExt1Ecx, 6);
    case F::kPrefetchw: return bit(kWordExt1Ecx, 8);
    case F::kMonitorx: return bit(kWordExt1Ecx, 29);
    case F::kSyscall: return bit(kWordExt1Edx, 11);
    case F::kRdtscp: return bit(kWordExt1Edx, 27);
    case F::kLongMode: return bit(kWordExt1Edx, 29);
    case F::kClzero: return bit(kWordExt8Ebx, 0);
    case F::kInvlpgb: return bit(kWordExt8Ebx, 3);
    case F::kRdpru: return bit(kWordExt8Ebx, 4);
    case F::kMcommit: return bit(kWordExt8Ebx, 8);
    case F::kWbnoinvd: return kAlways;  // without it, WBNOINVD is WBINVD
    case F::kSmm: return kAlways;       // RSM outside of SMM is #UD by itself
    case F::kSevEs: case F::kSnp: case F::kCount: return kNever;
  }
  return kNever;
}

struct BitTable {
  uint16_t bit[static_cast<unsigned>(Feature::kCount) + 1];
};
constexpr BitTable make_table() {
  BitTable t{};
  for (unsigned i = 0; i <= static_cast<unsigned>(Feature::kCount); i++) t.bit[i] = bit_of(static_cast<Feature>(i));
  return t;
}
constexpr BitTable kBits = make_table();

}  // namespace

bool feature_enabled(const VcpuState& vcpu, Feature feature) {
  if (feature > Feature::kCount) return false;
  uint16_t bit = kBits.bit[static_cast<unsigned>(feature)];
  if (bit >= kNever) return bit == kAlways;
  return has(vcpu, bit);
}

}  // namespace vireo::softkvm
