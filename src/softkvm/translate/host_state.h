// SPDX-License-Identifier: Apache-2.0
// FAST code that has to call ordinary C++ (the verifier, the perf map: never on the way of a run that is measured) puts the guest's SIMD and
// x87 state aside. Spec: Intel SDM vol 1, 13.7 XSAVE, 13.8 XRSTOR.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

class HostState {
 public:
  HostState() {
    for (uint64_t& word : area_.header) word = 0;
    uint32_t high;
    asm volatile("xgetbv" : "=a"(mask_), "=d"(high) : "c"(0));
    mask_ &= kComponents;
    asm volatile("xsave64 %0" : "+m"(area_) : "a"(mask_), "d"(0));
    static constexpr uint32_t kMxcsr = 0x1f80;
    static constexpr uint16_t kControl = 0x37f;
    if (mask_ & 4) asm volatile("vzeroupper");
    asm volatile("fninit; fldcw %0; ldmxcsr %1" : : "m"(kControl), "m"(kMxcsr));
  }
  ~HostState() { asm volatile("xrstor64 %0" : : "m"(area_), "a"(mask_), "d"(0)); }
  HostState(const HostState&) = delete;
  HostState& operator=(const HostState&) = delete;

 private:
  static constexpr uint32_t kComponents = 0xe7;  // as run_guest() saves: their standard format ends before 2696
  struct Area {
    alignas(64) uint8_t legacy[512];
    uint64_t header[8];
    uint8_t rest[4096 - 576];
  } area_;
  uint32_t mask_;
};

}  // namespace vireo::softkvm
