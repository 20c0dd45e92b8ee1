// SPDX-License-Identifier: Apache-2.0
// PUSH, POP, LEAVE, PUSHF. FAST.
#include "softkvm/translate/translation.h"

namespace vireo::softkvm {

// r11 and what is returned make the host address of a word of the stack's: the new top after pushing, that of `reg` else.
int32_t Translation::push_address(uint32_t live) {
  return reach(1, {kRsp, stack_size(), false, true, kSS}, live, [&](unsigned before) {
    out_.lea(kScratch0, kHostRsp, 0xff, 1, -static_cast<int32_t>(stack_size() + before), long_);
  });
}

int32_t Translation::top_address(unsigned reg, uint32_t live) {
  return reach(1, {reg, stack_size(), true, false, kSS}, live, [&](unsigned before) {
    out_.lea(kScratch0, static_cast<unsigned>(host_of(reg)), 0xff, 1, -static_cast<int32_t>(before), long_);
  });
}

void Translation::stack(Decoded& d) {
  const Insn& insn = d.insn;
  uint32_t live = live_in(index_);
  const Operand& o = insn.operands[0];
  int32_t at;
  switch (insn.mnemonic) {
    case Mnemonic::kPush:
      if (o.kind == OperandKind::kMemory) {
        at = memory(insn, stack_size(), true, false, live);
        note_side(d);
        load_top(kScratch1, at);
        out_.store(kCarry, kScratch1);
        at = push_address(live);
        out_.load(kScratch1, kCarry);
        note_side(d);
        store_top(kScratch1, at);
      } else if (o.kind == OperandKind::kImmediate) {
        at = push_address(live);
        note_side(d);
        out_.memory_form(0xc7, 0, kScratch0, 0xff, 1, at, long_);  // mov [r11 + at], imm32
        out_.u32(static_cast<uint32_t>(insn.immediate));
      } else {
        at = push_address(live);
        int host = host_of(o.reg);
        if (host < 0) out_.load_gpr(host = kScratch1, o.reg);
        note_side(d);
        store_top(host, at);
      }
      move_rsp(-static_cast<int32_t>(stack_size()));
      break;
    case Mnemonic::kPop: {
      at = top_address(kRsp, live);
      note_side(d);
      load_top(kScratch1, at);
      move_rsp(static_cast<int32_t>(stack_size()));
      put(o.reg, kScratch1);
      break;
    }
    case Mnemonic::kPushf:
      want_flags_in_slot();
      flags_.host = false;
      out_.call_stub(STUB_RFLAGS);
      in_r11_ = -1;
      out_.store(kCarry, kScratch1);
      at = push_address(live);
      out_.load(kScratch1, kCarry);
      note_side(d);
      store_top(kScratch1, at);
      move_rsp(-static_cast<int32_t>(stack_size()));
      break;
    default:  // LEAVE
      at = top_address(kRbp, live);
      note_side(d);
      load_top(kScratch1, at);
      out_.lea(kHostRsp, kRbp, 0xff, 1, static_cast<int32_t>(stack_size()), long_);
      out_.move(kRbp, kScratch1);
  }
}

}  // namespace vireo::softkvm
