// SPDX-License-Identifier: Apache-2.0
// Does the guest's CPUID (KVM_SET_CPUID2) have what an encoding needs? No: #UD, or what older CPUs made of it (see Feature).
#pragma once

#include "softkvm/cpu/feature.h"
#include "softkvm/cpu/vcpu_state.h"

namespace vireo::softkvm {

bool feature_enabled(const VcpuState& vcpu, Feature feature);

}  // namespace vireo::softkvm
