// SPDX-License-Identifier: Apache-2.0
// For tests that run code on the bare CPU: may it be 32-bit code?
#pragma once

#include <cstdint>

namespace vireo::softkvm {

// Linux gives a 64-bit process the 32-bit user code segment 0x23 too, but some paravirtualized hosts run 64-bit programs only.
// LAR tells: Intel SDM vol 3, 5.10.1; the access rights, 3.4.5.
inline bool host_runs_32_bit_code() {
  constexpr uint32_t kPresentCode = 0x9800, kDefault32 = 0x400000, kLong = 0x200000;
  uint32_t rights = 0;
  bool there;
  asm("lar %2, %0" : "+r"(rights), "=@ccz"(there) : "r"(0x23));
  return there && (rights & (kPresentCode | kDefault32 | kLong)) == (kPresentCode | kDefault32);
}

}  // namespace vireo::softkvm
