// SPDX-License-Identifier: Apache-2.0
// Near branches: JMP, Jcc, CALL, RET, LOOP, JCXZ. FAST.
#include "softkvm/translate/translation.h"

namespace vireo::softkvm {

void Translation::branch(Decoded& d) {
  const Insn& insn = d.insn;
  uint32_t live = live_in(index_);
  int64_t next = static_cast<int64_t>(d.offset) + insn.length;
  int64_t target = insn.operand_count && insn.operands[0].kind == OperandKind::kRelative ? target_of(d) : 0;
  bool relative = insn.operand_count && insn.operands[0].kind == OperandKind::kRelative;
  auto backward = [&](int64_t t) { return t <= d.offset; };
  int32_t at, moved;
  switch (insn.mnemonic) {
    case Mnemonic::kJcc: {
      want_flags_in_host();
      unsigned condition = insn.opcode & 15;
      const bool in_page = may_link(target);
      if (in_page && !backward(target)) {
        if (live_at(target) && off_ & kSwitchHostFlags) want_flags_in_slot();
        // live_at(target) is part of live_out, so the flags are where the target wants them.
        link_site(out_.patchable_jcc(condition), target, flags_in(live_at(target)));
      } else {
        uint32_t over = out_.jcc(condition ^ 1);
        Flags before = flags_;
        exit_to(target, in_page, refusable(d));
        flags_ = before;
        out_.resolve(over, out_.here());
      }
      return;
    }
    case Mnemonic::kLoop:
    case Mnemonic::kLoope:
    case Mnemonic::kLoopne:
    case Mnemonic::kJcxz: {
      bool jcxz = insn.mnemonic == Mnemonic::kJcxz;
      want_flags_in_host();
      bool wide = insn.address_size == 8;
      if (!jcxz) out_.lea(kRcx, kRcx, 0xff, 1, -1, wide);
      // jrcxz/jecxz over a rel32 jump
      auto if_zero = [&](unsigned skip) {
        if (!wide) out_.u8(0x67);
        out_.bytes({0xe3, static_cast<uint8_t>(skip)});
      };
      uint32_t out1 = 0, out2 = 0;
      if (jcxz) {
        if_zero(5);
        out1 = out_.jmp();
      } else {
        if_zero(2);
        out_.bytes({0xeb, 5});  // not zero: over the jump out
        out1 = out_.jmp();
        if (insn.mnemonic != Mnemonic::kLoop) out2 = out_.jcc(insn.mnemonic == Mnemonic::kLoope ? 5 : 4);
      }
      Flags before = flags_;
      exit_to(target, backward(target), refusable(d));
      flags_ = before;
      out_.resolve(out1, out_.here());
      if (out2) out_.resolve(out2, out_.here());
      exit_to(next, false);
      ended_ = true;
      return;
    }
    case Mnemonic::kJmp:
      if (relative) {
        exit_to(target, backward(target), refusable(d));
      } else {
        near_target(d, live);
        indirect_exit(refusable(d));
      }
      break;
    case Mnemonic::kCall:
      if (!relative) {
        near_target(d, live);
        out_.store(kCarry, kScratch0);
      }
      want_flags_in_slot();
      at = push_address(kStatusFlags);
      out_.load(kScratch1, VCPU_PAGE_BASE);
      out_.lea(kScratch1, kScratch1, 0xff, 1, static_cast<int32_t>(next), long_);
      note_side(d);
      store_top(kScratch1, at);
      moved = -static_cast<int32_t>(stack_size());
      move_rsp(moved);
      if (relative) {
        exit_to(target, backward(target), refusable(d, moved));
      } else {
        out_.load(kScratch0, kCarry);
        indirect_exit(refusable(d, moved));
      }
      break;
    default: {  // RET
      want_flags_in_slot();
      at = top_address(kRsp, live);
      note_side(d);
      load_top(kScratch0, at);
      moved = static_cast<int32_t>(stack_size() + (insn.immediate_size ? insn.immediate & 0xffff : 0));
      move_rsp(moved);
      indirect_exit(refusable(d, moved));
    }
  }
  ended_ = true;
}

// r11 = the target of an indirect near branch.
void Translation::near_target(Decoded& d, uint32_t live) {
  const Operand& o = d.insn.operands[0];
  if (o.kind == OperandKind::kMemory) {
    const int32_t at = memory(d.insn, stack_size(), true, false, live);
    note_side(d);
    load_top(kScratch0, at);
    in_r11_ = -1;
    return;
  }
  in_r11_ = -1;
  int host = host_of(o.reg);
  if (host < 0) out_.load_gpr(kScratch0, o.reg);
  else out_.lea(kScratch0, static_cast<unsigned>(host), 0xff, 1, 0, long_);
  if (host < 0 && !long_) out_.bytes({0x45, 0x89, 0xdb});
}

}  // namespace vireo::softkvm
