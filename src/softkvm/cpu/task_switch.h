// SPDX-License-Identifier: Apache-2.0
// Hardware task switching. Spec: Intel SDM vol 3, 8.3.
#pragma once

#include "softkvm/cpu/system.h"

namespace vireo::softkvm {

enum class TaskSwitchCause : uint8_t { kCall, kIret, kJump, kGate };  // the numbers of VMX exit qualifications

// Switches to the task of `selector` (checked to be a TSS in the GDT by this function). `return_rip` is what the old task goes on at.
// kJump: done. A fault before the switch leaves everything; one after it is raised in the new task.
// `error`: an error code to push on the new task's stack (kGate).
Outcome task_switch(VcpuState& vcpu, uint16_t selector, TaskSwitchCause cause, uint64_t return_rip, bool has_error, uint32_t error);

}  // namespace vireo::softkvm
