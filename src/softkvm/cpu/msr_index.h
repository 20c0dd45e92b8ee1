// SPDX-License-Identifier: Apache-2.0
// The numbers of the model-specific registers this CPU has. Spec: Intel SDM vol 4, table 2-2; AMD APM vol 2, appendix A; the KVM
// paravirtual ones: Documentation/virt/kvm/x86/msr.rst.
#pragma once

#include <cstdint>

namespace vireo::softkvm::msr_index {

constexpr uint32_t kTsc = 0x10, kWallClockOld = 0x11, kSystemTimeOld = 0x12, kPlatformId = 0x17, kApicBase = 0x1b, kEblCrPoweron = 0x2a,
                   kEbcFrequencyId = 0x2c, kSmiCount = 0x34, kFeatureControl = 0x3a, kTscAdjust = 0x3b, kSpecCtrl = 0x48, kPredCmd = 0x49,
                   kBiosUpdtTrig = 0x79, kBiosSignId = 0x8b, kSmbase = 0x9e, kPerfctr0 = 0xc1, kPerfctr1 = 0xc2, kFsbFreq = 0xcd,
                   kPlatformInfo = 0xce, kMtrrCap = 0xfe, kArchCapabilities = 0x10a, kFlushCmd = 0x10b, kBblCrCtl3 = 0x11e,
                   kMiscFeatures = 0x140, kSysenterCs = 0x174, kSysenterEsp = 0x175, kSysenterEip = 0x176, kMcgCap = 0x179,
                   kMcgStatus = 0x17a, kMcgCtl = 0x17b, kEvntsel0 = 0x186, kEvntsel1 = 0x187, kPerfStatus = 0x198, kPerfCtl = 0x199,
                   kMiscEnable = 0x1a0, kDebugctl = 0x1d9, kLastBranchFrom = 0x1db, kLastIntTo = 0x1de, kMtrrPhysbase0 = 0x200,
                   kMtrrPhysmask7 = 0x20f, kMtrrFix64k = 0x250, kMtrrFix16k0 = 0x258, kMtrrFix16k1 = 0x259, kMtrrFix4k0 = 0x268,
                   kMtrrFix4k7 = 0x26f, kPat = 0x277, kMtrrDefType = 0x2ff, kMc0Ctl = 0x400, kMcLast = 0x47f, kRaplPowerUnit = 0x606,
                   kPkgEnergy = 0x611, kDramEnergy = 0x619, kPp0Energy = 0x639, kPp1Energy = 0x641, kTscDeadline = 0x6e0, kPkrs = 0x6e1,
                   kX2apicFirst = 0x800, kX2apicLast = 0x8ff, kXss = 0xda0, kPowerCtl = 0x1fc, kMc0Ctl2 = 0x280, kMc31Ctl2 = 0x29f;

constexpr uint32_t kKvmWallClock = 0x4b564d00, kKvmSystemTime = 0x4b564d01, kKvmAsyncPf = 0x4b564d02, kKvmStealTime = 0x4b564d03,
                   kKvmPvEoi = 0x4b564d04, kKvmPollControl = 0x4b564d05, kKvmAsyncPfInt = 0x4b564d06, kKvmAsyncPfAck = 0x4b564d07,
                   kKvmMigrationControl = 0x4b564d08;

constexpr uint32_t kEfer = 0xc0000080, kStar = 0xc0000081, kLstar = 0xc0000082, kCstar = 0xc0000083, kSfmask = 0xc0000084,
                   kFsBase = 0xc0000100, kGsBase = 0xc0000101, kKernelGsBase = 0xc0000102, kTscAux = 0xc0000103;

constexpr uint32_t kK7Evntsel0 = 0xc0010000, kK7Perfctr3 = 0xc0010007, kAmdSyscfg = 0xc0010010, kHwcr = 0xc0010015, kNbCfg = 0xc001001f,
                   kIntPendingMsg = 0xc0010055, kMmioConfBase = 0xc0010058, kTsegAddress = 0xc0010112, kTsegMask = 0xc0010113,
                   kVirtSpecCtrl = 0xc001011f, kOsvwLength = 0xc0010140, kOsvwStatus = 0xc0010141, kDcCfg = 0xc0011022, kTwCfg = 0xc0011023,
                   kDeCfg = 0xc0011029, kBuCfg2 = 0xc001102a, kExCfg = 0xc001102c;

}  // namespace vireo::softkvm::msr_index
