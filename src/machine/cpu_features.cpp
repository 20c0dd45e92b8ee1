// SPDX-License-Identifier: Apache-2.0
// Spec: Intel SDM vol 2, CPUID; AMD APM vol 3, appendix E. Names are QEMU's.
#include "machine/cpu_features.h"

namespace vireo {
namespace {

using Entry = kvm_cpuid_entry2;

constexpr CpuFeature kFeatures[] = {
    {"fpu", 1, 0, &Entry::edx, 0}, {"vme", 1, 0, &Entry::edx, 1}, {"de", 1, 0, &Entry::edx, 2}, {"pse", 1, 0, &Entry::edx, 3},
    {"tsc", 1, 0, &Entry::edx, 4}, {"msr", 1, 0, &Entry::edx, 5}, {"pae", 1, 0, &Entry::edx, 6}, {"mce", 1, 0, &Entry::edx, 7},
    {"cx8", 1, 0, &Entry::edx, 8}, {"apic", 1, 0, &Entry::edx, 9}, {"sep", 1, 0, &Entry::edx, 11}, {"mtrr", 1, 0, &Entry::edx, 12},
    {"pge", 1, 0, &Entry::edx, 13}, {"mca", 1, 0, &Entry::edx, 14}, {"cmov", 1, 0, &Entry::edx, 15}, {"pat", 1, 0, &Entry::edx, 16},
    {"pse36", 1, 0, &Entry::edx, 17}, {"clflush", 1, 0, &Entry::edx, 19}, {"mmx", 1, 0, &Entry::edx, 23}, {"fxsr", 1, 0, &Entry::edx, 24},
    {"sse", 1, 0, &Entry::edx, 25}, {"sse2", 1, 0, &Entry::edx, 26}, {"sse3", 1, 0, &Entry::ecx, 0}, {"pclmulqdq", 1, 0, &Entry::ecx, 1},
    {"ssse3", 1, 0, &Entry::ecx, 9}, {"fma", 1, 0, &Entry::ecx, 12}, {"cx16", 1, 0, &Entry::ecx, 13}, {"pcid", 1, 0, &Entry::ecx, 17},
    {"sse4-1", 1, 0, &Entry::ecx, 19}, {"sse4-2", 1, 0, &Entry::ecx, 20}, {"x2apic", 1, 0, &Entry::ecx, 21},
    {"movbe", 1, 0, &Entry::ecx, 22}, {"popcnt", 1, 0, &Entry::ecx, 23}, {"tsc-deadline", 1, 0, &Entry::ecx, 24},
    {"aes", 1, 0, &Entry::ecx, 25}, {"xsave", 1, 0, &Entry::ecx, 26}, {"avx", 1, 0, &Entry::ecx, 28}, {"f16c", 1, 0, &Entry::ecx, 29},
    {"rdrand", 1, 0, &Entry::ecx, 30}, {"fsgsbase", 7, 0, &Entry::ebx, 0}, {"tsc-adjust", 7, 0, &Entry::ebx, 1},
    {"bmi1", 7, 0, &Entry::ebx, 3}, {"avx2", 7, 0, &Entry::ebx, 5}, {"smep", 7, 0, &Entry::ebx, 7}, {"bmi2", 7, 0, &Entry::ebx, 8},
    {"erms", 7, 0, &Entry::ebx, 9}, {"invpcid", 7, 0, &Entry::ebx, 10}, {"avx512f", 7, 0, &Entry::ebx, 16},
    {"avx512dq", 7, 0, &Entry::ebx, 17}, {"rdseed", 7, 0, &Entry::ebx, 18}, {"adx", 7, 0, &Entry::ebx, 19},
    {"smap", 7, 0, &Entry::ebx, 20}, {"avx512ifma", 7, 0, &Entry::ebx, 21}, {"clflushopt", 7, 0, &Entry::ebx, 23},
    {"clwb", 7, 0, &Entry::ebx, 24}, {"avx512cd", 7, 0, &Entry::ebx, 28}, {"sha-ni", 7, 0, &Entry::ebx, 29},
    {"avx512bw", 7, 0, &Entry::ebx, 30}, {"avx512vl", 7, 0, &Entry::ebx, 31}, {"avx512vbmi", 7, 0, &Entry::ecx, 1},
    {"umip", 7, 0, &Entry::ecx, 2}, {"pku", 7, 0, &Entry::ecx, 3}, {"avx512vbmi2", 7, 0, &Entry::ecx, 6}, {"gfni", 7, 0, &Entry::ecx, 8},
    {"vaes", 7, 0, &Entry::ecx, 9}, {"vpclmulqdq", 7, 0, &Entry::ecx, 10}, {"avx512vnni", 7, 0, &Entry::ecx, 11},
    {"avx512bitalg", 7, 0, &Entry::ecx, 12}, {"avx512-vpopcntdq", 7, 0, &Entry::ecx, 14}, {"la57", 7, 0, &Entry::ecx, 16},
    {"rdpid", 7, 0, &Entry::ecx, 22}, {"movdiri", 7, 0, &Entry::ecx, 27}, {"movdir64b", 7, 0, &Entry::ecx, 28},
    {"pks", 7, 0, &Entry::ecx, 31}, {"fsrm", 7, 0, &Entry::edx, 4}, {"avx512-vp2intersect", 7, 0, &Entry::edx, 8},
    {"serialize", 7, 0, &Entry::edx, 14}, {"avx512-fp16", 7, 0, &Entry::edx, 23}, {"spec-ctrl", 7, 0, &Entry::edx, 26},
    {"stibp", 7, 0, &Entry::edx, 27}, {"arch-capabilities", 7, 0, &Entry::edx, 29}, {"lahf-lm", 0x80000001, 0, &Entry::ecx, 0},
    {"abm", 0x80000001, 0, &Entry::ecx, 5}, {"sse4a", 0x80000001, 0, &Entry::ecx, 6}, {"misalignsse", 0x80000001, 0, &Entry::ecx, 7},
    {"3dnowprefetch", 0x80000001, 0, &Entry::ecx, 8}, {"syscall", 0x80000001, 0, &Entry::edx, 11}, {"nx", 0x80000001, 0, &Entry::edx, 20},
    {"mmxext", 0x80000001, 0, &Entry::edx, 22}, {"pdpe1gb", 0x80000001, 0, &Entry::edx, 26}, {"rdtscp", 0x80000001, 0, &Entry::edx, 27},
    {"lm", 0x80000001, 0, &Entry::edx, 29}, {"clzero", 0x80000008, 0, &Entry::ebx, 0}, {"xsaveerptr", 0x80000008, 0, &Entry::ebx, 2},
    {"wbnoinvd", 0x80000008, 0, &Entry::ebx, 9}, {"ibpb", 0x80000008, 0, &Entry::ebx, 12}, {"xsaveopt", 0xd, 1, &Entry::eax, 0},
    {"xsavec", 0xd, 1, &Entry::eax, 1}, {"xgetbv1", 0xd, 1, &Entry::eax, 2}, {"xsaves", 0xd, 1, &Entry::eax, 3},
};

}  // namespace

std::span<const CpuFeature> cpu_features() { return kFeatures; }

const CpuFeature* find_cpu_feature(std::string_view name) {
  for (const CpuFeature& f : kFeatures)
    if (name == f.name) return &f;
  return nullptr;
}

}  // namespace vireo
