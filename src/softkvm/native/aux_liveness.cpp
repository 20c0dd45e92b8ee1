// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/aux_liveness.h"

#include "softkvm/cpu/decoder.h"
#include "softkvm/cpu/vcpu_state.h"

namespace vireo::softkvm {
namespace {

enum class Use { kNone, kRead, kWritten };

Use use_of_rcx(const Insn& insn) {
  if (insn.base == kRcx || insn.index == kRcx) return Use::kRead;
  bool read = false, written = false;
  for (unsigned i = 0; i < insn.operand_count; i++) {
    const Operand& o = insn.operands[i];
    if (o.kind != OperandKind::kGpr || o.reg != kRcx) continue;
    const unsigned access = static_cast<unsigned>(o.access);
    read |= (access & 1) || o.size < 4;
    written |= (access & 2) != 0;
  }
  // XOR and SUB of a register with itself depend on nothing.
  const bool cleared = (insn.mnemonic == Mnemonic::kXor || insn.mnemonic == Mnemonic::kSub) && insn.operand_count >= 2 &&
                       insn.operands[0].kind == OperandKind::kGpr && insn.operands[1].kind == OperandKind::kGpr &&
                       insn.operands[0].reg == kRcx && insn.operands[1].reg == kRcx && insn.operands[0].size >= 4;
  if (cleared) return Use::kWritten;
  return read ? Use::kRead : written ? Use::kWritten : Use::kNone;
}

}  // namespace

bool counter_dies(std::span<const uint8_t> bytes, size_t at) {
  constexpr unsigned kMostInsns = 64, kMostPaths = 8;
  size_t paths[kMostPaths] = {at};
  unsigned count = 1, insns = 0;
  while (count) {
    size_t here = paths[--count];
    for (bool open = true; open;) {
      Insn insn;
      if (++insns > kMostInsns || here >= bytes.size() ||
          decode(bytes.data() + here, bytes.size() - here, CodeMode::k64, insn) != DecodeStatus::kOk)
        return false;
      const size_t next = here + insn.length;
      if (insn.form == Form::kBranch) {
        if (insn.mnemonic == Mnemonic::kRet) break;
        const bool relative = insn.operand_count && insn.operands[0].kind == OperandKind::kRelative;
        if (!relative || (insn.mnemonic != Mnemonic::kJmp && insn.mnemonic != Mnemonic::kJcc)) return false;
        const size_t target = next + static_cast<size_t>(insn.immediate);  // before the bytes: wraps to beyond them
        if (target >= bytes.size()) return false;
        if (insn.mnemonic == Mnemonic::kJcc) {
          if (count == kMostPaths) return false;
          paths[count++] = target;
          here = next;
        } else {
          here = target;
        }
        continue;
      }
      if (insn.form != Form::kPlain && insn.form != Form::kStack) return false;
      switch (use_of_rcx(insn)) {
        case Use::kRead: return false;
        case Use::kWritten: open = false; break;
        case Use::kNone: here = next; break;
      }
    }
  }
  return true;
}

}  // namespace vireo::softkvm
