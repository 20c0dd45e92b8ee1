// SPDX-License-Identifier: Apache-2.0
// What MSRs hold that describe this CPU or start with a fixed value. Spec: Intel SDM vol 4, table 2-2.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

// IA32_ARCH_CAPABILITIES as every guest sees it: none of the flaws that guests work around reach through translated code, for it never runs
// guest code at the host's privilege, has no TSX and keeps no state of another guest in its address space; so their mitigations are off.
constexpr uint64_t kArchCapabilitiesValue = 1 << 0 /*RDCL_NO*/ | 1 << 1 /*IBRS_ALL*/ | 1 << 3 /*SKIP_L1DFL_VMENTRY*/ | 1 << 4 /*SSB_NO*/ |
                                            1 << 5 /*MDS_NO*/ | 1 << 6 /*IF_PSCHANGE_MC_NO*/ | 1 << 8 /*TAA_NO*/ | 1 << 13 /*SBDR_SSDP_NO*/ |
                                            1 << 14 /*FBSDP_NO*/ | 1 << 15 /*PSDP_NO*/ | 1 << 20 /*BHI_NO*/ | 1 << 24 /*PBRSB_NO*/ |
                                            1 << 26 /*GDS_NO*/ | 1 << 27 /*RFDS_NO*/ | 1ull << 62 /*ITS_NO*/;
constexpr uint64_t kMicrocodeRevisionIntel = 0x100000000ull, kMicrocodeRevisionAmd = 0x01000065;
constexpr uint64_t kPlatformInfoCpuidFault = 1ull << 31;
constexpr uint64_t kMiscEnableReset = 1 << 0 /*fast strings*/ | 1 << 11 /*no BTS*/ | 1 << 12 /*no PEBS*/;

}  // namespace vireo::softkvm
