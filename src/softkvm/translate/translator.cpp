// SPDX-License-Identifier: Apache-2.0
// FAST: a block is made while the guest's SIMD state is live (make_block.cpp).
#include "softkvm/translate/translator.h"

#include "softkvm/cpu/decoder.h"
#include "softkvm/translate/translation.h"

namespace vireo::softkvm {

size_t Translation::run() {
  decode_block();
  liveness();
  find_groups();
  block_.indirect_entry = out_.here();
  // Entered with r11 the linear address, flags in the slot. lea r10, [r11 - start] in eight aligned bytes, since a jump takes their place when
  // the block is dropped (CodeCache::turn_away).
  out_.bytes({0x4d, 0x8d, 0x94, 0x23});
  out_.u32(-start_);
  // Compared before it is stored: a store would chain every return address through memory to the next call's.
  out_.gs(0x3b, kScratch1, VCPU_PAGE_BASE);
  out_.bytes({0x74, 9});                                   // je over the store
  out_.store(VCPU_PAGE_BASE, kScratch1);
  if (!step_) {
    poll_compare();
    later(Later::kStub, out_.jcc(5)).a = STUB_POLL;
  }
  // Direct jumps come in here.
  const bool live = live_in(0), in_slot = live && (off_ & kSwitchHostFlags || wanted_in_slot());
  block_.linked_entry[static_cast<unsigned>(FlagsIn::kSlot)] = out_.here();
  if (live && !in_slot) out_.restore_flags();
  const uint32_t body = out_.here();
  block_.linked_entry[static_cast<unsigned>(FlagsIn::kHost)] = block_.linked_entry[static_cast<unsigned>(FlagsIn::kBoth)] = body;
  flags_ = {!in_slot, in_slot};
  if (in_slot) later(Later::kHostEntry, 0).back = body;
  for (index_ = 0; index_ < count_; index_++) emit(insns_[index_]);
  if (!ended_) exit_to(end_, false);
  checks_.emit_misses([this](uint32_t at, unsigned target, FlagsIn flags) {
    link_site(at, target, flags);
    later_[later_count_ - 1].ungrouped = true;
  });
  for (unsigned i = 0; i < later_count_; i++) emit_later(later_[i]);
  notes_.instructions = count_;
  block_.gpa = source_.gpa;
  block_.mode = mode_;
  block_.straddle = source_.straddle ? insns_[0].insn.length : 0;
  block_.second_page = source_.second_page;
  block_.guest_begin = dependency_begin_;
  block_.guest_end = std::min(dependency_end_, 4096u);
  return out_.size();
}

// The stub for an instruction that is run by name.
unsigned Translation::stub_of(const Decoded& d) const {
  const Insn& insn = d.insn;
  if (d.bad || step_) return STUB_CALLOUT;
  const bool string = insn.mnemonic == Mnemonic::kMovs || insn.mnemonic == Mnemonic::kStos;
  if (off_ & (string ? kSwitchStringStubs : kSwitchQuickStubs)) return STUB_CALLOUT;
  switch (insn.mnemonic) {
    case Mnemonic::kCli: return STUB_CLI;
    case Mnemonic::kSti: return STUB_STI;
    case Mnemonic::kSwapgs: return STUB_SWAPGS;
    case Mnemonic::kMovs:
    case Mnemonic::kStos:
      if (!long_ || !insn.rep || insn.address_size != 8 || insn.segment >= kFS || !checks_.by_tlb(kES)) return STUB_CALLOUT;
      return (insn.mnemonic == Mnemonic::kMovs ? STUB_MOVS : STUB_STOS) +
             (insn.opcode & 1 ? static_cast<unsigned>(__builtin_ctz(insn.operand_size)) : 0);
    default: return STUB_CALLOUT;
  }
}

void Translation::emit(Decoded& d) {
  current_ = &d;
  if (d.clobbers_r11) in_r11_ = -1;
  if (d.insn.form == Form::kPlain && d.shape.traits == kEverywhere) return copied(d);
  if (d.by_name) return call_out(d);
  switch (d.insn.form) {
    case Form::kStack: return stack(d);
    case Form::kBranch: return branch(d);
    default: return plain(d);
  }
}

void Translation::call_out(Decoded& d) {
  want_flags_in_slot();
  flags_.host = false;
  out_.bytes({0x4c, 0x8d, 0x1d});  // lea r11, [rip + record]
  later(Later::kRecord, out_.here()).decoded = &d;
  out_.u32(0);
  out_.call_stub(stub_of(d));
  if (d.bad) ended_ = true, out_.bytes({0x0f, 0x0b});
  else if (d.insn.form == Form::kBranch) ended_ = true, out_.bytes({0x0f, 0x0b});  // those always leave with kJump
}

size_t translate(const VcpuState& vcpu, const Source& source, uint8_t* out, uint32_t offset, Block& block, BlockNotes& notes) {
  Translation t(vcpu, source, out, offset, block, notes);
  return t.run();
}

bool straddles(PageCopy& page, unsigned offset, CodeMode mode) {
  Insn insn;
  return 4096 - offset < kMaxInsnLength && decode(page.at(offset), 4096 - offset, mode, insn) == DecodeStatus::kTruncated;
}

}  // namespace vireo::softkvm
