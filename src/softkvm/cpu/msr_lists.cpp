// SPDX-License-Identifier: Apache-2.0
// The MSRs a host saves and restores, and those that tell what this hypervisor can do. Spec: Documentation/virt/kvm/api.rst, 4.3, 4.68.
#include "softkvm/cpu/msr_index.h"
#include "softkvm/cpu/msrs.h"

#include <cpuid.h>

namespace vireo::softkvm {

using namespace msr_index;

namespace {

constexpr uint32_t kList[] = {
    kTsc, kSysenterCs, kSysenterEsp, kSysenterEip, kStar, kCstar, kKernelGsBase, kSfmask, kLstar, kSpecCtrl, kTscAux, kArchCapabilities,
    kXss, kEfer, kFsBase, kGsBase, kPat, kMtrrDefType, kMtrrFix64k, kMtrrFix16k0, kMtrrFix16k1, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d,
    0x26e, 0x26f, 0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f,
    kMiscEnable, kMcgStatus, kMcgCtl, kSmbase, kSmiCount, kPlatformInfo, kMiscFeatures, kTscAdjust, kTscDeadline, kPkrs, kFeatureControl,
    kBiosSignId, kDebugctl, kHwcr, kVirtSpecCtrl, kWallClockOld, kSystemTimeOld, kKvmWallClock, kKvmSystemTime, kKvmAsyncPf, kKvmStealTime,
    kKvmPvEoi, kKvmPollControl, kKvmAsyncPfInt, kKvmAsyncPfAck, kKvmMigrationControl,
};
constexpr uint32_t kFeatureList[] = {kArchCapabilities, kBiosSignId, kPlatformInfo, kDeCfg};

bool host_is_amd() {
  unsigned eax, ebx, ecx, edx;
  __cpuid(0, eax, ebx, ecx, edx);
  return ebx == signature_AMD_ebx || ebx == 0x6f677948 /*Hygo*/;
}

}  // namespace

std::span<const uint32_t> msr_index_list() { return kList; }
std::span<const uint32_t> msr_feature_index_list() { return kFeatureList; }

bool read_feature_msr(uint32_t index, uint64_t& value) {
  switch (index) {
    case kArchCapabilities: value = kArchCapabilitiesValue; return true;
    case kBiosSignId: value = host_is_amd() ? kMicrocodeRevisionAmd : kMicrocodeRevisionIntel; return true;
    case kPlatformInfo: value = kPlatformInfoCpuidFault; return true;
    case kDeCfg: value = 2; return true;
    default: return false;
  }
}

}  // namespace vireo::softkvm
