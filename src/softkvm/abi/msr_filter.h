// SPDX-License-Identifier: Apache-2.0
// KVM_X86_SET_MSR_FILTER: which of the guest's own RDMSR and WRMSR reach their MSR. Looked up by FAST code without a lock, replaced whole.
// Spec: Documentation/virt/kvm/api.rst, 4.97.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

namespace vireo::softkvm {

struct MsrFilter {
  struct Range {
    uint32_t flags, base, count;
    uint8_t* bitmap;
  };
  bool default_allow = true;
  unsigned ranges = 0;
  Range range[KVM_MSR_FILTER_MAX_RANGES];
  uint8_t bitmaps[KVM_MSR_FILTER_MAX_RANGES][KVM_MSR_FILTER_MAX_BITMAP_SIZE];

  // Without a range for it the default decides. x2APIC's MSRs are never filtered.
  bool allows(uint32_t index, bool write) const {
    if (index >= 0x800 && index <= 0x8ff) return true;
    const uint32_t kind = write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ;
    for (unsigned i = 0; i < ranges; i++) {
      const Range& r = range[i];
      const uint32_t bit = index - r.base;
      if (!(r.flags & kind) || bit >= r.count) continue;
      return r.bitmap[bit / 8] >> bit % 8 & 1;
    }
    return default_allow;
  }
};

}  // namespace vireo::softkvm
