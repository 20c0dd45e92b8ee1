// SPDX-License-Identifier: Apache-2.0
// Breakpoints of DR0 to DR3. While DR7 enables one, the run loop goes instruction by instruction in step mode, compares RIP before each and
// has the access path note what it touches. Spec: Intel SDM vol 3, 17.2 (registers), 17.3.1 (conditions, RF, MOV SS). FAST.
#pragma once

#include "softkvm/vm.h"

namespace vireo::softkvm {

enum class BreakpointKind : uint8_t { kExecute = 0, kWrite = 1, kPort = 2, kAccess = 3 };  // DR7.R/W

bool breakpoints_armed(const Vcpu& vcpu);
// Bits of DR6 for instruction breakpoints at a linear address.
uint8_t instruction_breakpoints(const Vcpu& vcpu, uint64_t linear);
// Bit n: DRn watches data, or ports.
uint8_t watched(const Vcpu& vcpu);
// Notes in Engine::watch_hits what an access of the instruction at hand touches; only while Engine::watching.
void note_watched(Vcpu& vcpu, uint64_t address, unsigned size, BreakpointKind kind);

}  // namespace vireo::softkvm
