// SPDX-License-Identifier: Apache-2.0
// A stack being pushed to or popped from, in a segment that need not be loaded yet. Nothing of the vCPU changes until commit().
// Spec: Intel SDM vol 1, 6.2; vol 3, 5.3 (limits).
#pragma once

#include "softkvm/cpu/descriptor.h"

namespace vireo::softkvm {

class Stack {
 public:
  // The current stack. `system`: pushes as supervisor, for transfers to an inner level.
  explicit Stack(VcpuState& vcpu, bool system = false)
      : Stack(vcpu, vcpu.segment[kSS], vcpu.gpr[kRsp], vcpu.in_64bit(), system) {}
  Stack(VcpuState& vcpu, const Segment& ss, uint64_t sp, bool flat64, bool system, uint32_t error = 0)
      : vcpu_(vcpu), ss_(ss), sp_(sp), mask_(flat64 ? ~0ull : ss.db() ? 0xffffffffu : 0xffffu), flat64_(flat64), system_(system),
        error_(error) {}

  Outcome push(uint64_t value, unsigned size) {
    uint64_t offset = (sp_ - size) & mask_, linear;
    STEP(translate(offset, size, linear));
    STEP(write_linear(vcpu_, linear, &value, size, system_, true));
    advance(offset);
    return Outcome::kNext;
  }
  Outcome pop(uint64_t& value, unsigned size) {
    uint64_t offset = sp_ & mask_, linear;
    STEP(translate(offset, size, linear));
    value = 0;
    STEP(read_linear(vcpu_, linear, &value, size, system_, true));
    advance(offset + size);
    return Outcome::kNext;
  }
  void skip(uint64_t bytes) { advance(sp_ + bytes); }
  uint64_t sp() const { return sp_; }
  void commit() { vcpu_.gpr[kRsp] = sp_; }

 private:
  Outcome translate(uint64_t offset, unsigned size, uint64_t& linear) {
    if (flat64_) {
      linear = offset;
      return Outcome::kNext;
    }
    if (vcpu_.protected_mode() && ss_.unusable) return vcpu_.raise(kSSv, error_);
    if (!within_limit(ss_, offset, size)) return vcpu_.raise(kSSv, error_);
    linear = static_cast<uint32_t>(ss_.base + offset);
    return Outcome::kNext;
  }
  void advance(uint64_t to) { sp_ = mask_ == 0xffff ? (sp_ & ~0xffffull) | (to & 0xffff) : to & mask_; }

  VcpuState& vcpu_;
  const Segment& ss_;
  uint64_t sp_;
  uint64_t mask_;
  bool flat64_;
  bool system_;
  uint32_t error_;  // of the #SS for a limit violation
};

}  // namespace vireo::softkvm
