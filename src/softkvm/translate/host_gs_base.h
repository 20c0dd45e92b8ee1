// SPDX-License-Identifier: Apache-2.0
// The host's GS base, by which translated code finds its vCPU.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

class Vcpu;

// Sets this thread's GS base to the vCPU for as long as it lives.
//
// With FSGSBASE that takes some cycles. Without it each change is a system call, and in a paravirtualized machine another trap behind that (4.7 us
// to read and 8.9 us to write were measured), for every KVM_RUN. There a thread whose GS base was zero, as the x86-64 ABI leaves it, keeps the
// vCPU's after KVM_RUN, and the next one only looks whether it is still there: it reads through GS, and takes a fault of that for a no. A thread that
// uses GS for something has it back when KVM_RUN ends.
class HostGsBase {
 public:
  explicit HostGsBase(const Vcpu& vcpu);
  ~HostGsBase();
  HostGsBase(const HostGsBase&) = delete;
  HostGsBase& operator=(const HostGsBase&) = delete;

 private:
  uint64_t old_ = 0;
  bool restore_ = true;
};

}  // namespace vireo::softkvm
