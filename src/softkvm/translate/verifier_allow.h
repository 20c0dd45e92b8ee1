// SPDX-License-Identifier: Apache-2.0
// Which host instructions may stand in a block at all, by opcode: the verifier's own list, not the decoder's Form column, which the
// translator goes by.
#pragma once

#include "softkvm/cpu/insn.h"

namespace vireo::softkvm {

// A guest instruction that runs as itself, or a piece of the emitter's own sequences; operands are not looked at here.
bool allowed_on_host(const Insn& insn);

}  // namespace vireo::softkvm
