// SPDX-License-Identifier: Apache-2.0
// The guest's instruction written again for the host: other register numbers in its fields, its memory operand replaced by [base].
#pragma once

#include "softkvm/cpu/insn.h"
#include "softkvm/translate/emitter.h"

namespace vireo::softkvm {

// Host registers for the general registers in the fields of an encoding; -1: the field holds none, its bits stay.
struct Rename {
  int reg = -1, rm = -1, vvvv = -1, low3 = -1;
  int memory = -1;  // base register of the memory operand: none of rSP, rBP, r12, r13
  int32_t displacement = 0;  // beside it
  uint32_t slot = 0;         // or: ModRM.rm becomes this GS-relative slot, a register's in the encoding
  int opcode = -1;           // ... with this opcode instead, where the operands' fields change places
};

// How an instruction's register in ModRM.rm can be memory: not at all, as it stands, or the one in ModRM.reg too, with `opcode`.
struct RegisterInMemory {
  bool rm = false, reg = false;
  uint8_t opcode = 0;
};
RegisterInMemory register_in_memory(const Insn& insn);

// What VZEROALL or VZEROUPPER does to vector register `r` (0-7): outside of 64-bit mode those leave the registers from 8 on, which the host's do not.
void zero_register(Emitter& out, unsigned r, bool all);

void reencode(Emitter& out, const Insn& insn, const Rename& rename);

// The same where the general registers are the guest's (InsnShape::as_in_guest): without a memory operand, and with one that becomes [base + displacement],
// the base being as Rename::memory.
void reencode_as_it_is(Emitter& out, const Insn& insn);
void reencode_as_it_is(Emitter& out, const Insn& insn, unsigned base, int32_t displacement);

}  // namespace vireo::softkvm
