// SPDX-License-Identifier: Apache-2.0
// Tells AccessGroups what a block's instructions do to memory and registers. FAST.
#include "softkvm/translate/translation.h"

namespace vireo::softkvm {

void Translation::find_groups() {
  grouped_ = long_ && count_ > 1 && !source_.straddle && checks_.by_tlb(kDS) && !(mode_ & kModeUngrouped) &&
             !(off_ & (kSwitchGroupedChecks | kSwitchLinks));
  if (!grouped_) return;
  groups_.begin();
  for (unsigned i = 0; i < count_; i++) {
    const Decoded& d = insns_[i];
    if (d.by_name) {
      groups_.call_out();
      continue;
    }
    if (d.clobbers_r11) groups_.clobber();
    switch (d.insn.form) {
      case Form::kStack: group_stack(i, d); break;
      case Form::kBranch: group_branch(i, d); break;
      default:
        if (d.shape.traits & kDoesNothing) break;
        if (d.memory() && !(d.shape.traits & kIsLea)) {  // whose operand is no access
          const Operand& mem = *d.memory();
          if (groupable(d)) groups_.memory(i, d.insn, d.offset + d.insn.length, mem.size ? mem.size : 1, static_cast<unsigned>(mem.access) & 2);
          else groups_.alone(i, 0);
        }
        groups_.registers(d.insn, d.shape.written, d.offset + d.insn.length);
    }
  }
  groups_.end();
}

void Translation::group_stack(unsigned i, const Decoded& d) {
  const Operand& o = d.insn.operands[0];
  constexpr int kWord = 8;
  switch (d.insn.mnemonic) {
    case Mnemonic::kPush:
      if (o.kind == OperandKind::kMemory) group_memory(i, d);
      [[fallthrough]];
    case Mnemonic::kPushf:
      if (d.insn.mnemonic == Mnemonic::kPushf) groups_.clobber();
      groups_.stack(i, 1, kRsp, -kWord, kWord, true);
      return groups_.moved(kRsp, kRsp, -kWord);
    case Mnemonic::kPop:
      groups_.stack(i, 1, kRsp, 0, kWord, false);
      groups_.moved(kRsp, kRsp, kWord);
      return groups_.lost(o.reg);
    default:  // LEAVE
      groups_.stack(i, 1, kRbp, 0, kWord, false);
      groups_.moved(kRsp, kRbp, kWord);
      return groups_.lost(kRbp);
  }
}

void Translation::group_branch(unsigned i, const Decoded& d) {
  switch (d.insn.mnemonic) {
    case Mnemonic::kJcc: return groups_.jump_out();
    case Mnemonic::kCall:
    case Mnemonic::kJmp:
      if (d.insn.operands[0].kind == OperandKind::kMemory) group_memory(i, d);
      groups_.clobber();
      if (d.insn.mnemonic == Mnemonic::kCall) groups_.stack(i, 1, kRsp, -8, 8, true);
      return;
    case Mnemonic::kRet: return groups_.stack(i, 1, kRsp, 0, 8, false);
    default: return;
  }
}

// The memory operand of a stack instruction or of a branch.
void Translation::group_memory(unsigned i, const Decoded& d) {
  if (d.insn.address_size == 8) groups_.memory(i, d.insn, d.offset + d.insn.length, 8, false);
  else groups_.alone(i, 0);
}

}  // namespace vireo::softkvm
