// SPDX-License-Identifier: Apache-2.0
// A vCPU's jump cache: from linear addresses to the code there, by view. What finds it is translated code (Translation::indirect_exit).
#pragma once

#include "softkvm/translate/block.h"
#include "softkvm/translate/engine.h"

namespace vireo::softkvm {

// FAST. The jump to `linear` leads to `code` from now on, which is `block`'s: in the mode that the view stands for at the moment, by a fetch entry that holds.
void enter_jump(VcpuState& vcpu, unsigned view, uint64_t linear, const Block& block, const void* code);

}  // namespace vireo::softkvm
