// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "softkvm/cpu/insn.h"

namespace vireo::softkvm {

// The alignment that a masked access, or one by elements, has to have where #AC is enabled: log2 of bytes, 0 to 4. `amd`: the guest's vendor.
unsigned masked_alignment(const Insn& insn, bool amd);

}  // namespace vireo::softkvm
