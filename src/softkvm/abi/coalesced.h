// SPDX-License-Identifier: Apache-2.0
// The zones of coalesced writes (irqchip/coalesced.h), and where their ring lies. The ABI has one ring a VM, seen through every vCPU's pages. A
// vCPU's pages here are a memfd of its own, so the ring is used only while the VM has one vCPU; with more, such writes leave one by one,
// which the ABI allows at any time (as when the ring is full).
#pragma once

#include <cstdint>

#include "softkvm/abi/vcpu_file.h"

namespace vireo::softkvm::abi {

int register_coalesced(VmFile& vm, uintptr_t argument);
int unregister_coalesced(VmFile& vm, uintptr_t argument);

// A vCPU has come. Under VmFile::mutex.
void choose_ring(VmFile& vm);

}  // namespace vireo::softkvm::abi
