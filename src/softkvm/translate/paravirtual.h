// SPDX-License-Identifier: Apache-2.0
// What the KVM paravirtual MSRs ask to be written into guest memory: kvmclock's pages. Spec: Documentation/virt/kvm/x86/msr.rst.
#pragma once

#include "softkvm/vm.h"

namespace vireo::softkvm {

void update_paravirtual(Vcpu& vcpu);

// Fills the steal-time page (MSR_KVM_STEAL_TIME) with how long this thread, the vCPU's, has waited for a CPU. At most once in a millisecond: it takes
// two system calls, and a guest reads it at its timer's ticks.
void update_steal_time(Vcpu& vcpu);

}  // namespace vireo::softkvm
