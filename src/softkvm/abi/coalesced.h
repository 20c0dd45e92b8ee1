// SPDX-License-Identifier: Apache-2.0
// Coalesced writes: guest writes to registered zones of device memory or ports go into a ring that user space empties at its next
// exit. The ABI has one ring a VM, seen through every vCPU's pages. A vCPU's pages here are a memfd of its own, so the ring is used only
// while the VM has one vCPU; with more, such writes leave one by one, which the ABI allows at any time (as when the ring is full).
#pragma once

#include <cstdint>

#include "softkvm/abi/vcpu_file.h"

namespace vireo::softkvm::abi {

int register_coalesced(VmFile& vm, uintptr_t argument);
int unregister_coalesced(VmFile& vm, uintptr_t argument);

// The exit in kvm_run is a write that went into the ring: the guest may go on.
bool coalesce_exit(VcpuFile& file);

}  // namespace vireo::softkvm::abi
