// SPDX-License-Identifier: Apache-2.0
// What the run loop asks of the interrupt controllers and of user space's wishes. FAST.
#pragma once

#include "softkvm/vm.h"

namespace vireo::softkvm {

bool interrupt_pending(Vcpu& vcpu);      // an unmasked one above the processor priority, whatever IF says
int acknowledge_interrupt(Vcpu& vcpu);   // its vector, or -1
bool window_exit(Vcpu& vcpu);            // user space waits for IF (request_interrupt_window) and it is open: kvm_run filled
bool debug_trap_exit(Vcpu& vcpu, const PendingException& event);  // KVM_SET_GUEST_DEBUG wants this #DB/#BP: kvm_run filled

// As port_io() for INS: of up to `wanted` values that user space is asked for in one exit, the next. The run loop lets nothing come between.
Outcome port_in_ahead(VcpuState& vcpu, uint16_t port, unsigned size, uint64_t wanted, uint32_t& value);

}  // namespace vireo::softkvm
