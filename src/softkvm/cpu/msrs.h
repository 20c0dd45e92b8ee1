// SPDX-License-Identifier: Apache-2.0
// Which MSRs there are, for KVM_GET_MSR_INDEX_LIST and KVM_GET_MSR_FEATURE_INDEX_LIST, and what the feature MSRs say.
// Reading and writing them is read_msr() and write_msr() of system.h.
#pragma once

#include <cstdint>
#include <span>

#include "softkvm/cpu/msr_values.h"

namespace vireo::softkvm {

std::span<const uint32_t> msr_index_list();
std::span<const uint32_t> msr_feature_index_list();
// KVM_GET_MSRS on the system handle. False: not a feature MSR.
bool read_feature_msr(uint32_t index, uint64_t& value);

}  // namespace vireo::softkvm
