// SPDX-License-Identifier: Apache-2.0
// The CPUID leaves a vCPU has (KVM_SET_CPUID2), looked up by the CPUID instruction and asked for single feature bits.
// Lookups are FAST code; the table is built in ordinary code, before the vCPU runs.
// Spec: Intel SDM vol 2, CPUID; AMD APM vol 3, appendix E; <linux/kvm.h> kvm_cpuid_entry2 (flags).
#pragma once

#include <cstddef>
#include <cstdint>

#include "softkvm/cpu/vcpu_state.h"

namespace vireo::softkvm {

// The feature words that instructions ask for; a feature is word * 32 + bit.
enum CpuidWord : unsigned {
  kWord1Ecx, kWord1Edx, kWord6Eax, kWord7Ebx, kWord7Ecx, kWord7Edx, kWord71Eax, kWord14Ebx, kWordD1Eax, kWordKvmEax,
  kWordExt1Ecx, kWordExt1Edx, kWordExt7Edx, kWordExt8Ebx, kWordExt21Eax, kWordSvmEdx, kCpuidWords,
};
constexpr unsigned cpuid_bit(CpuidWord word, unsigned bit) { return word * 32 + bit; }

constexpr unsigned kCpuidMonitor = cpuid_bit(kWord1Ecx, 3), kCpuidVmx = cpuid_bit(kWord1Ecx, 5), kCpuidPcid = cpuid_bit(kWord1Ecx, 17),
                   kCpuidX2apic = cpuid_bit(kWord1Ecx, 21), kCpuidTscDeadline = cpuid_bit(kWord1Ecx, 24),
                   kCpuidXsave = cpuid_bit(kWord1Ecx, 26), kCpuidRdrand = cpuid_bit(kWord1Ecx, 30), kCpuidVme = cpuid_bit(kWord1Edx, 1),
                   kCpuidDe = cpuid_bit(kWord1Edx, 2), kCpuidPse = cpuid_bit(kWord1Edx, 3), kCpuidTsc = cpuid_bit(kWord1Edx, 4),
                   kCpuidPae = cpuid_bit(kWord1Edx, 6), kCpuidMce = cpuid_bit(kWord1Edx, 7), kCpuidApic = cpuid_bit(kWord1Edx, 9),
                   kCpuidSep = cpuid_bit(kWord1Edx, 11), kCpuidMtrr = cpuid_bit(kWord1Edx, 12), kCpuidPge = cpuid_bit(kWord1Edx, 13),
                   kCpuidFxsr = cpuid_bit(kWord1Edx, 24), kCpuidSse = cpuid_bit(kWord1Edx, 25),
                   kCpuidFsgsbase = cpuid_bit(kWord7Ebx, 0), kCpuidTscAdjust = cpuid_bit(kWord7Ebx, 1),
                   kCpuidSmep = cpuid_bit(kWord7Ebx, 7), kCpuidInvpcid = cpuid_bit(kWord7Ebx, 10), kCpuidRtm = cpuid_bit(kWord7Ebx, 11),
                   kCpuidRdseed = cpuid_bit(kWord7Ebx, 18), kCpuidSmap = cpuid_bit(kWord7Ebx, 20), kCpuidUmip = cpuid_bit(kWord7Ecx, 2),
                   kCpuidPku = cpuid_bit(kWord7Ecx, 3), kCpuidLa57 = cpuid_bit(kWord7Ecx, 16), kCpuidRdpid = cpuid_bit(kWord7Ecx, 22),
                   kCpuidPks = cpuid_bit(kWord7Ecx, 31),
                   kCpuidSerialize = cpuid_bit(kWord7Edx, 14), kCpuidSpecCtrl = cpuid_bit(kWord7Edx, 26),
                   kCpuidStibp = cpuid_bit(kWord7Edx, 27), kCpuidFlushL1d = cpuid_bit(kWord7Edx, 28),
                   kCpuidArchCapabilities = cpuid_bit(kWord7Edx, 29), kCpuidSsbd = cpuid_bit(kWord7Edx, 31),
                   kCpuidXgetbv1 = cpuid_bit(kWordD1Eax, 2), kCpuidXsaves = cpuid_bit(kWordD1Eax, 3),
                   kCpuidSvm = cpuid_bit(kWordExt1Ecx, 2), kCpuidSyscall = cpuid_bit(kWordExt1Edx, 11), kCpuidNx = cpuid_bit(kWordExt1Edx, 20),
                   kCpuidFfxsr = cpuid_bit(kWordExt1Edx, 25), kCpuidGbPages = cpuid_bit(kWordExt1Edx, 26),
                   kCpuidRdtscp = cpuid_bit(kWordExt1Edx, 27), kCpuidLongMode = cpuid_bit(kWordExt1Edx, 29),
                   kCpuidRdpru = cpuid_bit(kWordExt8Ebx, 4), kCpuidWbnoinvd = cpuid_bit(kWordExt8Ebx, 9),
                   kCpuidIbpb = cpuid_bit(kWordExt8Ebx, 12), kCpuidAmdIbrs = cpuid_bit(kWordExt8Ebx, 14),
                   kCpuidAmdStibp = cpuid_bit(kWordExt8Ebx, 15), kCpuidAmdSsbd = cpuid_bit(kWordExt8Ebx, 24),
                   kCpuidVirtSsbd = cpuid_bit(kWordExt8Ebx, 25), kCpuidNullSelectorClearsBase = cpuid_bit(kWordExt21Eax, 6);

struct CpuidEntry {
  static constexpr uint32_t kSignificantIndex = 1;  // KVM_CPUID_FLAG_SIGNIFCANT_INDEX
  uint32_t function = 0, index = 0, flags = 0;
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

struct CpuidTable {
  static constexpr unsigned kMaxEntries = 256;  // KVM_MAX_CPUID_ENTRIES

  CpuidEntry entries[kMaxEntries];
  unsigned count = 0;
  // Derived by seal().
  uint32_t words[kCpuidWords] = {};
  uint64_t xcr0_supported = 1, xss_supported = 0;
  struct {
    uint32_t size = 0, offset = 0, flags = 0;
  } xsave_component[64];
  uint8_t physical_bits = 36;
  bool amd = false;

  bool has(unsigned feature) const { return words[feature / 32] >> (feature % 32) & 1; }
  const CpuidEntry* find(uint32_t function, uint32_t index) const;
  // Computes what is derived from the entries. To be called after they are filled.
  void seal();
  // What leaf 0xD says of the area's size, in bytes: the standard format for `xcr0`, or the compacted one for the set `components`.
  uint32_t xsave_size(uint64_t xcr0) const;
  uint32_t xsave_compacted_size(uint64_t components) const;
};

inline bool has(const VcpuState& vcpu, unsigned feature) { return vcpu.cpuid && vcpu.cpuid->has(feature); }

// What the CPUID instruction answers for eax = function, ecx = index in the vCPU's present state.
CpuidEntry cpuid(VcpuState& vcpu, uint32_t function, uint32_t index);

}  // namespace vireo::softkvm
