// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/host_segment_bases.h"

#include <sys/auxv.h>

namespace vireo::softkvm {

bool host_keeps_segment_bases() {
  constexpr unsigned long kHwcap2Fsgsbase = 1u << 1;
  static const bool keeps = getauxval(AT_HWCAP2) & kHwcap2Fsgsbase;
  return keeps;
}

}  // namespace vireo::softkvm
