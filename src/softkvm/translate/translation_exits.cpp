// SPDX-License-Identifier: Apache-2.0
// How a block is left: direct jumps that may be linked, indirect ones by the jump cache, polls; and what is emitted behind its end. FAST.
#include "softkvm/translate/translation.h"

#include <initializer_list>

namespace vireo::softkvm {
namespace {

uint32_t jump_at(unsigned view, size_t member) {
  return static_cast<uint32_t>(ENGINE + offsetof(Engine, jump) + view * sizeof(JumpEntry) * kJumpEntries + member);
}

}  // namespace

void Translation::emit_later(const Later& l) {
  if (l.kind == Later::kRecord) {
    while (out_.here() % 8) out_.u8(0xcc);
  }
  if (l.kind != Later::kHostEntry) out_.resolve(l.from, out_.here());
  switch (l.kind) {
    case Later::kStub: out_.jump_stub(l.a); break;
    case Later::kLookup: lookup(l.a); break;
    case Later::kHostEntry:
      block_.linked_entry[static_cast<unsigned>(FlagsIn::kHost)] = out_.here();
      out_.save_flags();
      out_.jmp_to(l.back);
      break;
    case Later::kPoll:
      linear_of(l.target);
      out_.jump_stub(STUB_POLL);
      break;
    case Later::kPollFlags:
      out_.move(kRcx, kScratch1);
      out_.save_flags();
      linear_of(l.target);
      out_.jump_stub(STUB_POLL);
      break;
    case Later::kLink:
      notes_.sites[notes_.site_count++] = {l.from, out_.here(), l.flags, l.ungrouped, static_cast<uint16_t>(l.target)};
      out_.call_stub(l.ungrouped || l.flags == FlagsIn::kSlot ? STUB_LINK_SLOT : STUB_LINK);
      break;
    case Later::kRecord: {
      const uint32_t head[2] = {l.decoded->offset, static_cast<uint32_t>(l.decoded->callout)};
      static_assert(sizeof(CalloutRecord) == sizeof head + sizeof(Insn) && offsetof(CalloutRecord, what) == 4);
      out_.put(head, sizeof head);
      out_.put(&l.decoded->insn, sizeof l.decoded->insn);
      break;
    }
  }
}

void Translation::lookup(uint32_t branch) {
  if (branch) out_.move_imm(kScratch1, branch);
  out_.jump_stub(branch ? STUB_LOOKUP_BRANCH : STUB_LOOKUP);
}

// To the linear address in r11.
void Translation::indirect_exit(uint32_t branch) {
  want_flags_in_slot();
  flags_.host = false;
  if (step_) return out_.jump_stub(STUB_STEP_DONE);
  if (off_ & kSwitchJumpCache || !(mode_ & kModeFlatCode)) return lookup(branch);  // where CS has a limit, the lookup knows it
  if (off_ & kSwitchRorx) {                                // jump_index()
    out_.move(kScratch1, kScratch0);
    out_.bytes({0x49, 0xc1, 0xea, kJumpBits});             // shr r10, 16
  } else {
    out_.bytes({0xc4, 0x43, 0xfb, 0xf0, 0xd3, kJumpBits}); // rorx r10, r11, 16
  }
  out_.bytes({0x45, 0x31, 0xda});                          // xor r10d, r11d
  out_.bytes({0x45, 0x0f, 0xb7, 0xd2});                    // movzx r10d, r10w
  out_.bytes({0x41, 0xc1, 0xe2, 4});                       // shl r10d, 4
  auto gs_r10 = [this](std::initializer_list<uint8_t> opcode, unsigned reg, uint32_t at) {
    out_.bytes(opcode);
    out_.u8(0x82 | (reg & 7) << 3);  // [r10 + disp32]
    out_.u32(at);
  };
  gs_r10({0x65, 0x4d, 0x3b}, kScratch0, jump_at(view_, offsetof(JumpEntry, tag)));  // cmp r11, gs:[r10 + tag]
  later(Later::kLookup, out_.jcc(5)).a = branch;
  gs_r10({0x65, 0x41, 0xff}, 4, jump_at(view_, offsetof(JumpEntry, code)));         // jmp gs:[r10 + code]
}

// May a jump to a page offset be patched to go straight to the block there?
bool Translation::may_link(int64_t target) const {
  return !step_ && !(off_ & kSwitchLinks) && !(mode_ & kModeCodeEdges) && target >= 0 && target < 4096 && !source_.straddle && !may_straddle(static_cast<unsigned>(target));
}

// A direct exit to a page offset. `poll`: it may close a loop.
void Translation::exit_to(int64_t target, bool poll, uint32_t branch) {
  if (!may_link(target)) {
    want_flags_in_slot();
    linear_of(target);
    return indirect_exit(branch);
  }
  uint32_t live = live_at(target);
  if (live && off_ & kSwitchHostFlags) want_flags_in_slot();
  if (poll) {
    if (live && flags_.host && !flags_.slot) {
      poll_beside_flags(target);
    } else {
      flags_.host = false;
      poll_compare();
      later(Later::kPoll, out_.jcc(5)).target = target;
    }
  }
  link_site(out_.patchable_jmp(), target, flags_in(live));
}

// The poll where the host's flags are needed: by JRCXZ.
void Translation::poll_beside_flags(int64_t target) {
  out_.move(kScratch1, kRcx);
  out_.bytes({0x65, 0x8b, 0x0c, 0x25});  // mov ecx, gs:[attention]
  out_.u32(VCPU_ATTENTION);
  out_.bytes({0xe3, 5});                 // jrcxz over the jump
  later(Later::kPollFlags, out_.jmp()).target = target;
  out_.move(kRcx, kScratch1);
}

}  // namespace vireo::softkvm
