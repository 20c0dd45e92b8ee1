// SPDX-License-Identifier: Apache-2.0
// The CPUID bit an encoding needs. The guest's CPUID decides which of them are there: an encoding without its bit is #UD, except where
// older CPUs ignored a prefix (lzcnt is bsr, tzcnt is bsf) or had hint NOPs. Names follow the bits' names in Intel SDM vol 2A, CPUID, and
// AMD APM vol 3, appendix E.
// What a CPU has never without another is not asked: AVX512VL of EVEX forms shorter than 512 bits, AVX or AVX512F of forms of AES, PCLMULQDQ, GFNI.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

enum class Feature : uint8_t {
  kNone = 0,
  kFpu, kCmov, kCx8, kCx16, kClfsh, kFxsr, kMmx, kSse, kSse2, kSse3, kSsse3, kSse41, kSse42, kSse4a,
  kLahf64,  // LAHF/SAHF in 64-bit mode
  kLongMode, kSyscall, kSep, kTsc, kMsr, kRdtscp, kMonitor, kPopcnt, kLzcnt, kBmi1, kBmi2, kAdx, kMovbe, kRdrand, kRdseed,
  kPrefetchw, kPclmulqdq, kAes, kSha, kGfni, kVaes, kVpclmulqdq, kFsgsbase, kInvpcid, kRtm, kSmap, kPku, kRdpid,
  kXsave, kXsaveopt, kXsavec, kXsaves, kClflushopt, kClwb, kCldemote, kMovdiri, kMovdir64b, kEnqcmd, kSerialize, kWaitpkg,
  kPtwrite, kPconfig, kWbnoinvd, kTsxldtrk, kHreset, kVmx, kSmx, kSmm, kSvm, kSevEs, kClzero, kMonitorx, kRdpru, kInvlpgb, kSnp,
  kMcommit, kAvx, kAvx2, kF16c, kFma, kAvxVnni, kAvxIfma,
  kAvx512f, kAvx512cd, kAvx512dq, kAvx512bw, kAvx512Ifma, kAvx512Vbmi, kAvx512Vbmi2, kAvx512Vnni, kAvx512Bitalg,
  kAvx512Vpopcntdq, kAvx512Bf16, kAvx512Fp16, kAvx512Vp2intersect,
  kCount,
};

}  // namespace vireo::softkvm
