// SPDX-License-Identifier: Apache-2.0
// INT n, INT3, INTO and INT1 at the current instruction. Spec: Intel SDM vol 2, INT n/INTO/INT3/INT1.
#pragma once

#include "softkvm/cpu/system.h"

namespace vireo::softkvm {

enum class SoftwareInterrupt : uint8_t { kIntN, kInt3, kInto, kInt1 };

// Delivers it; a fault on the way is delivered in its place (kJump in both cases), or returned where it is the instruction's own.
Outcome software_interrupt(VcpuState& vcpu, uint8_t vector, SoftwareInterrupt kind, unsigned length);

}  // namespace vireo::softkvm
