// SPDX-License-Identifier: Apache-2.0
// What the KVM paravirtual MSRs ask to be written into guest memory: kvmclock's pages. Spec: Documentation/virt/kvm/x86/msr.rst.
#pragma once

#include "softkvm/vm.h"

namespace vireo::softkvm {

void update_paravirtual(Vcpu& vcpu);

}  // namespace vireo::softkvm
