// SPDX-License-Identifier: Apache-2.0
// The x87, SSE, AVX and AVX-512 state between the host's registers and an XSAVE area of the standard format. XSAVE and XRSTOR do the same and
// take some 350 ns for both where this takes 55 (AMD family 1Ah; XRSTOR alone 200): too much for an exit to a device model.
// Spec: Intel SDM vol 1, 13.4 (the area), 13.6 (XINUSE), 13.7, 13.8.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

// `mask`: the components, as in XCR0, that the host has and the area has room for. Between a load and a save nothing but translated code and FAST
// code may run. A save leaves the host's registers as C++ wants them.
void load_simd(const uint8_t* area, uint32_t mask);
void save_simd(uint8_t* area, uint32_t mask);

// The same by XSAVE and XRSTOR.
void load_simd_whole(const uint8_t* area, uint32_t mask);
void save_simd_whole(uint8_t* area, uint32_t mask);

}  // namespace vireo::softkvm
