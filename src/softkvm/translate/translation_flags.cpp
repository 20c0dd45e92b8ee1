// SPDX-License-Identifier: Apache-2.0
// Which status flags are read before they are written: by the block's instructions, and where it leads to. docs/engine.md, "Flags". FAST.
#include "softkvm/translate/translation.h"

#include <iterator>

#include "softkvm/cpu/decoder.h"

namespace vireo::softkvm {

// Which status flags code at a page offset may read before it writes them. Asked several times about each exit.
uint32_t Translation::live_at(int64_t target) {
  if (target < 0 || target >= 4096 || source_.straddle || off_ & kSwitchDeadFlags || mode_ & kModeCodeEdges) return kStatusFlags;
  if (!near_start(target, kDependencyReach - 128)) return kStatusFlags;
  const unsigned offset = static_cast<unsigned>(target);
  for (unsigned i = 0; i < known_count_; i++)
    if (known_[i].offset == offset) return known_[i].live;
  const uint32_t live = find_live_at(offset);
  if (known_count_ < std::size(known_)) known_[known_count_++] = {static_cast<uint16_t>(offset), static_cast<uint16_t>(live)};
  return live;
}

uint32_t Translation::find_live_at(unsigned at) {
  uint32_t needed = 0, written = 0;
  Insn insn;
  const unsigned from = at;
  unsigned looked = 0;
  for (unsigned n = 0; n < 6 && written != kStatusFlags && at < 4096; n++) {  // behind the page's end there is nothing to ask PageCopy for
    if (decode_effects(source_.page.at(at), 4096 - at, code_mode_, insn) != DecodeStatus::kOk) {
      looked = kMaxInsnLength;
      break;
    }
    dependency_begin_ = std::min(dependency_begin_, at);
    at += insn.length;
    dependency_end_ = std::max(dependency_end_, at);
    bool plain = insn.form == Form::kPlain || (insn.form == Form::kStack && (insn.mnemonic == Mnemonic::kPush || insn.mnemonic == Mnemonic::kPop));
    if (!plain) break;
    needed |= insn.flags_read & ~written;
    written |= insn.flags_written;
    if (needed == kStatusFlags) break;
  }
  note_look(from, at + looked);
  return (needed | ~written) & kStatusFlags;
}

// May the instruction at a page offset be cut by the page's end? Where its bytes were not copied: yes.
bool Translation::may_straddle(unsigned target) const {
  if (4096 - target >= kMaxInsnLength) return false;
  if (!near_start(target, kDependencyReach)) return true;
  note_look(target, 4096);
  return straddles(source_.page, target, code_mode_);
}

void Translation::liveness() {
  uint32_t live = kStatusFlags;
  if (count_ && !ends_block(insns_[count_ - 1]) && !step_) live = live_at(end_);
  const uint32_t always = off_ & kSwitchDeadFlags ? kStatusFlags : 0;
  for (unsigned i = count_; i-- > 0;) {
    Decoded& d = insns_[i];
    if (d.insn.form == Form::kBranch && !d.by_name) {
      bool relative = d.insn.operand_count && d.insn.operands[0].kind == OperandKind::kRelative;
      if (d.insn.mnemonic == Mnemonic::kJmp && relative) live = live_at(target_of(d));
      else if (d.insn.mnemonic == Mnemonic::kJcc) live |= live_at(target_of(d));
      else live = kStatusFlags;
    }
    d.live_out = live;
    live = (d.by_name ? kStatusFlags : ((live & ~d.insn.flags_written) | d.insn.flags_read) & kStatusFlags) | always;
    d.live_in = live;
  }
}

// Does the block first need the flags out of the host's register (a check or a call-out comes before what reads them)?
bool Translation::wanted_in_slot() const {
  for (unsigned i = 0; i < count_; i++) {
    const Decoded& d = insns_[i];
    if (d.by_name) return true;
    if (d.insn.form == Form::kBranch) return d.insn.mnemonic == Mnemonic::kCall || d.insn.mnemonic == Mnemonic::kRet;
    if (d.insn.form == Form::kStack || (d.memory() && !(d.shape.traits & kIsLea))) return live_in(i);
    if ((d.insn.flags_read | d.insn.flags_written | d.insn.flags_maybe) & kStatusFlags) return false;
  }
  return false;
}

}  // namespace vireo::softkvm
