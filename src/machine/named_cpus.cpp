// SPDX-License-Identifier: Apache-2.0
// The levels are those of the x86-64 psABI, 3.1.1, table 3.1, with what every 64-bit operating system needs (NX); the others have QEMU's names and are what its
// CPUs of these names have (`query-cpu-model-expansion`), as far as there is a CpuFeature for it: not SVM, performance counters and topology
// extensions. tests/integration/cpu_models holds them to that.
#include "machine/named_cpus.h"

namespace vireo {
namespace {

constexpr NamedCpu kCpus[] = {
    {"x86-64-v1", "", 15, 107, 1, "Vireo x86-64-v1 CPU", "",
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 syscall nx lm"},
    {"x86-64-v2", "", 15, 107, 1, "Vireo x86-64-v2 CPU", "x86-64-v1",
     "sse3 ssse3 cx16 sse4-1 sse4-2 popcnt lahf-lm"},
    {"x86-64-v3", "", 15, 107, 1, "Vireo x86-64-v3 CPU", "x86-64-v2",
     "fma movbe xsave avx f16c bmi1 avx2 bmi2 abm"},
    {"x86-64-v4", "", 15, 107, 1, "Vireo x86-64-v4 CPU", "x86-64-v3",
     "avx512f avx512dq avx512cd avx512bw avx512vl"},
    {"Nehalem", "GenuineIntel", 6, 26, 3, "Intel Core i7 9xx (Nehalem Class Core i7)", "x86-64-v2",
     ""},
    {"Westmere", "GenuineIntel", 6, 44, 1, "Westmere E56xx/L56xx/X56xx (Nehalem-C)", "x86-64-v2",
     "pclmulqdq aes"},
    {"SandyBridge", "GenuineIntel", 6, 42, 1, "Intel Xeon E312xx (Sandy Bridge)", "Westmere",
     "x2apic tsc-deadline xsave avx rdtscp xsaveopt"},
    {"IvyBridge", "GenuineIntel", 6, 58, 9, "Intel Xeon E3-12xx v2 (Ivy Bridge)", "SandyBridge",
     "f16c rdrand fsgsbase smep erms"},
    {"Haswell-noTSX", "GenuineIntel", 6, 60, 1, "Intel Core Processor (Haswell, no TSX)", "IvyBridge",
     "fma pcid movbe bmi1 avx2 bmi2 invpcid abm"},
    {"Broadwell-noTSX", "GenuineIntel", 6, 61, 2, "Intel Core Processor (Broadwell, no TSX)", "Haswell-noTSX",
     "rdseed adx smap 3dnowprefetch"},
    {"Skylake-Client-noTSX-IBRS", "GenuineIntel", 6, 94, 3, "Intel Core Processor (Skylake, IBRS, no TSX)", "Broadwell-noTSX",
     "spec-ctrl xsavec xgetbv1"},
    {"Skylake-Server-noTSX-IBRS", "GenuineIntel", 6, 85, 4, "Intel Xeon Processor (Skylake, IBRS, no TSX)", "Skylake-Client-noTSX-IBRS",
     "avx512f avx512dq clwb avx512cd avx512bw avx512vl pku pdpe1gb"},
    {"Cascadelake-Server-noTSX", "GenuineIntel", 6, 85, 6, "Intel Xeon Processor (Cascadelake)", "Skylake-Server-noTSX-IBRS",
     "clflushopt avx512vnni arch-capabilities"},
    {"Icelake-Server-noTSX", "GenuineIntel", 6, 134, 0, "Intel Xeon Processor (Icelake)", "Skylake-Server-noTSX-IBRS",
     "clflushopt avx512vbmi umip avx512vbmi2 gfni vaes vpclmulqdq avx512vnni avx512bitalg avx512-vpopcntdq la57 wbnoinvd"},
    {"EPYC", "AuthenticAMD", 23, 1, 2, "AMD EPYC Processor", "x86-64-v3",
     "pclmulqdq aes rdrand fsgsbase smep rdseed adx smap clflushopt sha-ni sse4a misalignsse 3dnowprefetch mmxext pdpe1gb "
     "rdtscp xsaveopt xsavec xgetbv1"},
    {"EPYC-Rome", "AuthenticAMD", 23, 49, 0, "AMD EPYC-Rome Processor", "EPYC",
     "clwb umip rdpid clzero xsaveerptr wbnoinvd ibpb xsaves"},
    {"EPYC-Milan", "AuthenticAMD", 25, 1, 1, "AMD EPYC-Milan Processor", "EPYC-Rome",
     "pcid erms invpcid pku fsrm"},
};

}  // namespace

std::span<const NamedCpu> named_cpus() { return kCpus; }

const NamedCpu* find_named_cpu(std::string_view name) {
  for (const NamedCpu& cpu : kCpus)
    if (name == cpu.name) return &cpu;
  return nullptr;
}

std::string NamedCpu::all_features() const {
  const NamedCpu* more = find_named_cpu(base);
  return more ? more->all_features() + " " + features : features;
}

}  // namespace vireo
