// SPDX-License-Identifier: Apache-2.0
// The guest's SIMD and x87 state, put aside while a FAST function calls ordinary C++, which uses those registers as it likes and expects
// the ABI's control words. Spec: Intel SDM vol 1, 13.7 and 13.8; System V psABI x86-64, 3.2.3.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

class GuestSimd {
 public:
  GuestSimd() {
    uint32_t a, d;
    asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    components_ = a & kComponents;
    // XRSTOR wants zeros in the header's reserved fields.
    for (unsigned i = 0; i < 8; i++) *reinterpret_cast<volatile uint64_t*>(area_ + kHeader + i * 8) = 0;
    asm volatile("xsave64 (%0)" : : "r"(area_), "a"(components_), "d"(0) : "memory");
    if (components_ & 4) asm volatile("vzeroupper");
    asm volatile("fninit; ldmxcsr %0" : : "m"(kMxcsr));
  }
  GuestSimd(const GuestSimd&) = delete;
  ~GuestSimd() { asm volatile("xrstor64 (%0)" : : "r"(area_), "a"(components_), "d"(0) : "memory"); }

 private:
  static constexpr uint32_t kComponents = 0xe7;  // x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM: what a guest may have
  static constexpr uint32_t kMxcsr = 0x1f80;
  static constexpr unsigned kHeader = 512;

  alignas(64) uint8_t area_[4096];  // the standard format of those needs 2688 bytes
  uint32_t components_;
};

}  // namespace vireo::softkvm
