// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/host_components.h"

#include <cpuid.h>

namespace vireo::softkvm {
namespace {

constexpr uint64_t kGuests = 0xe7;  // x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM

uint64_t host_xcr0() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return uint64_t{d} << 32 | a;
}

}  // namespace

uint64_t components_of_the_host_alone() {
  static const uint64_t components = host_xcr0() & ~kGuests;
  return components;
}

}  // namespace vireo::softkvm
