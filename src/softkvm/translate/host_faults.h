// SPDX-License-Identifier: Apache-2.0
// Host exceptions raised by guest instructions: SIGFPE, SIGSEGV and SIGBUS with the pc in translated code become the guest's #DE, #MF,
// #XM, #GP, or KVM_RUN's EFAULT where the slot's memory is gone. Other faults go to the handlers that were there before.
#pragma once

struct sigaction;

namespace vireo::softkvm {

struct VcpuState;

void install_host_fault_handlers();      // once a process; thread-safe
bool is_host_fault_handler(const struct sigaction& action);
void set_running_vcpu(VcpuState* vcpu);  // of this thread, null outside of KVM_RUN

}  // namespace vireo::softkvm
