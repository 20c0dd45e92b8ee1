// SPDX-License-Identifier: Apache-2.0
// Time: the TSC's rate and offset, and the VM's paravirtual clock.
#pragma once

#include <cstdint>

#include "softkvm/abi/vm_file.h"

namespace vireo::softkvm::abi {

uint32_t host_tsc_khz();
void run_tsc_at(Vcpu& vcpu, uint32_t khz);  // a rate that set_tsc_khz would take

void start_clock(Vm& vm);  // a new VM's clock is zero
int get_clock(VmFile& vm, uintptr_t argument);
int set_clock(VmFile& vm, uintptr_t argument);
int set_vm_tsc_khz(VmFile& vm, uintptr_t khz);
int get_vm_tsc_khz(VmFile& vm);

}  // namespace vireo::softkvm::abi
