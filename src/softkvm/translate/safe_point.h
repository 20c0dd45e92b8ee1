// SPDX-License-Identifier: Apache-2.0
// Bringing the vCPUs of a VM to a safe point: outside of translated code and its helpers, with the requests done or to be done before
// they run again. Never called by a vCPU that is running (Engine::running), so waiting cannot go in circles.
#pragma once

#include <cstdint>

#include "softkvm/vm.h"

namespace vireo::softkvm {

// Posts kRequest* bits to all vCPUs but one and waits until none can still use what they drop.
void reach_safe_points(Vm& vm, uint32_t request, const Vcpu* except);
// Drops translations made from [gpa, gpa+size).
void invalidate_code(Vm& vm, uint64_t gpa, uint64_t size);

}  // namespace vireo::softkvm
