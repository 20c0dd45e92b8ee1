// SPDX-License-Identifier: Apache-2.0
// Instructions with many or implicit addresses, run by name. FAST.
#pragma once

#include "softkvm/cpu/system.h"

namespace vireo::softkvm {

Outcome execute_string(VcpuState& vcpu, const Insn& insn);   // Form::kString
Outcome execute_special(VcpuState& vcpu, const Insn& insn);  // Form::kSpecial, and Form::kStack's rare ones

}  // namespace vireo::softkvm
