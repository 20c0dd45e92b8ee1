// SPDX-License-Identifier: Apache-2.0
// Gathers and scatters: vector instructions with one address an element. FAST.
#pragma once

#include "softkvm/cpu/system.h"

namespace vireo::softkvm {

Outcome execute_gather_scatter(VcpuState& vcpu, const Insn& insn);

}  // namespace vireo::softkvm
