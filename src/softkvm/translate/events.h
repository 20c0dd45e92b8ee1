// SPDX-License-Identifier: Apache-2.0
// What the run loop asks of the interrupt controllers and of user space's wishes. FAST.
#pragma once

#include "softkvm/vm.h"

namespace vireo::softkvm {

bool interrupt_pending(Vcpu& vcpu);      // an unmasked one above the processor priority, whatever IF says
int acknowledge_interrupt(Vcpu& vcpu);   // its vector, or -1
bool window_exit(Vcpu& vcpu);            // user space waits for IF (request_interrupt_window) and it is open: kvm_run filled
bool debug_trap_exit(Vcpu& vcpu, const PendingException& event);  // KVM_SET_GUEST_DEBUG wants this #DB/#BP: kvm_run filled

}  // namespace vireo::softkvm
