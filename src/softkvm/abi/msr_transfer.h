// SPDX-License-Identifier: Apache-2.0
// The common part of KVM_GET_MSRS and KVM_SET_MSRS, of a vCPU and of the system.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

namespace vireo::softkvm::abi {

// Calls `transfer` for each entry of the kvm_msrs at `argument` until it returns false. Returns how many it did, or -errno.
int transfer_msrs(uintptr_t argument, bool write_back, bool (*transfer)(void* context, kvm_msr_entry& entry), void* context);

extern const uint64_t kSupportedMceCapabilities;  // bits of IA32_MCG_CAP above the bank count

}  // namespace vireo::softkvm::abi
