// SPDX-License-Identifier: Apache-2.0
// FXSAVE, XSAVE and the x87 environment: the host's own instruction on the guest's area (or on a copy of it where it does not lie in one
// piece), with the instruction and data pointers, which would be the host's, taken out. FAST.
#pragma once

#include "softkvm/cpu/system.h"

namespace vireo::softkvm {

Outcome execute_fpu_area(VcpuState& vcpu, const Insn& insn);

}  // namespace vireo::softkvm
