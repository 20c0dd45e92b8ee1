// SPDX-License-Identifier: Apache-2.0
// Instructions that are the same for the host, but for where memory and registers are; and those few that look like them. FAST.
#include "softkvm/translate/translation.h"

namespace vireo::softkvm {

// The scratch registers are for what is displaced, and `base` for page_base too.
void Translation::effective_address(unsigned to, const Insn& insn, int64_t displacement, bool wide, unsigned base_scratch, unsigned index_scratch) {
  if (insn.rip_relative) {
    const int64_t from_page = static_cast<int64_t>(current_->offset) + insn.length + displacement;
    out_.load(base_scratch, VCPU_PAGE_BASE);
    if (from_page == static_cast<int32_t>(from_page)) return out_.lea(to, base_scratch, 0xff, 1, static_cast<int32_t>(from_page), wide);
    out_.lea(base_scratch, base_scratch, 0xff, 1, static_cast<int32_t>(from_page - displacement));
    return out_.lea(to, base_scratch, 0xff, 1, static_cast<int32_t>(displacement), wide);
  }
  int base = 0xff, index = 0xff;
  if (insn.base != kNoRegister) {
    base = host_of(insn.base);
    if (base < 0) out_.load_gpr(static_cast<unsigned>(base = static_cast<int>(base_scratch)), insn.base);
  }
  if (insn.index != kNoRegister) {
    index = host_of(insn.index);
    if (index < 0) out_.load_gpr(static_cast<unsigned>(index = static_cast<int>(index_scratch)), insn.index);
  }
  if (base == 0xff && index == 0xff) out_.move_imm(to, wide ? static_cast<uint64_t>(displacement) : static_cast<uint32_t>(displacement));
  else out_.lea(to, static_cast<unsigned>(base), static_cast<unsigned>(index), insn.scale, static_cast<int32_t>(displacement), wide);
}

void Translation::plain(Decoded& d) {
  const Insn& insn = d.insn;
  if (d.shape.traits & ~kEverywhere) {
    if (d.shape.traits & kDoesNothing) return;
    if (d.shape.traits & kIsLea) return lea(d);
    if (d.shape.traits & kIsMaskedMove) return masked_store(d);
    if (d.shape.traits & kHasMoffs) return move_offset(d);
    if (!long_) {
      for (unsigned r = 0; r < 8; r++) note_side(d), zero_register(out_, r, insn.mnemonic == Mnemonic::kVzeroall);
      return;
    }
  }
  if (insn.form == Form::kSystem) return selector(d);
  if (insn.form == Form::kSpecial && bit_string(insn)) return bit_in_memory(d);
  copied(d);
}

// Any other instruction: the same for the host, but for places.
void Translation::copied(Decoded& d) {
  const Insn& insn = d.insn;
  if (d.shape.as_in_guest() && insn.encoding != Encoding::kEvex) {
    const int32_t displacement = d.shape.memory >= 0 ? operand_address(d, *d.memory()) : 0;
    flags_for(d);
    note_side(d);
    if (d.shape.memory >= 0) reencode_as_it_is(out_, insn, kScratch0, displacement);
    else reencode_as_it_is(out_, insn);
    flags_behind(insn);
    return;
  }
  renamed(d);
}

void Translation::lea(Decoded& d) {
  const Insn& insn = d.insn;
  unsigned guest = insn.operands[0].reg;
  int host = host_of(guest);
  unsigned size = insn.operands[0].size;
  if (size >= 4 && insn.address_size >= 4) {
    const unsigned to = host < 0 ? kScratch1 : static_cast<unsigned>(host);
    effective_address(to, insn, insn.displacement, size == 8 && insn.address_size == 8, kScratch1, in_slot(insn.base) ? kScratch0 : kScratch1);
    if (host < 0) out_.store_gpr(guest, to);
    return;
  }
  address(insn, false);
  if (size == 2) {
    if (host < 0) {
      out_.bytes({0x65, 0x66, 0x44, 0x89, 0x1c, 0x25});  // mov gs:[slot], r11w
      out_.u32(VCPU_GPR + guest * 8);
    } else {
      out_.u8(0x66);
      out_.bytes({static_cast<uint8_t>(0x44 | (host >> 3 & 1)), 0x89, static_cast<uint8_t>(0xc0 | 3 << 3 | (host & 7))});
    }
    return;
  }
  if (size == 4) out_.bytes({0x45, 0x89, 0xdb});  // mov r11d, r11d
  if (host < 0) out_.store_gpr(guest, kScratch0);
  else out_.move(host, kScratch0);
}

void Translation::selector(Decoded& d) {
  const unsigned guest = d.insn.operands[0].reg;
  int host = host_of(guest);
  const int to = host < 0 ? static_cast<int>(kScratch1) : host;
  // movzx to, word gs:[selector]
  out_.bytes({0x65, static_cast<uint8_t>(0x40 | (to >> 3 & 1) << 2), 0x0f, 0xb7, static_cast<uint8_t>(0x04 | (to & 7) << 3), 0x25});
  out_.u32(VCPU_SELECTOR + SEGMENT_SIZE * d.insn.operands[1].reg);
  if (host < 0) out_.store_gpr(guest, kScratch1);
}

// MASKMOVQ and MASKMOVDQU with the host address in the host's rDI.
void Translation::masked_store(Decoded& d) {
  Insn to = d.insn;
  to.base = kRdi;
  to.index = kNoRegister;
  to.rip_relative = false;
  to.displacement = 0;
  to.segment = to.segment_prefix == kNoRegister ? static_cast<uint8_t>(kDS) : to.segment_prefix;
  give_up_flags(live_in(index_));
  address(to, checks_.by_tlb(to.segment));
  translate_address({MemoryChecks::recent_key(to), d.insn.mnemonic == Mnemonic::kMaskmovq ? 8u : 16u, true, true, to.segment});
  SideEntry borrowed{};
  borrowed.borrowed = 1;
  borrowed.borrow_reg[0] = kRdi;
  out_.store(ENGINE_BORROW, kRdi);
  out_.move(kRdi, kScratch0);
  note_side(d, &borrowed);
  reencode(out_, d.insn, Rename{});
  out_.load(kRdi, ENGINE_BORROW);
}

// The word that has the bit, by the offset's upper bits, and the instruction on that with the offset's lower bits.
void Translation::bit_in_memory(Decoded& d) {
  const Insn& insn = d.insn;
  const unsigned size = insn.operand_size, guest = insn.operands[1].reg;
  const int host = host_of(guest);
  auto offset_to_r10 = [&] {
    if (host < 0) out_.load_gpr(kScratch1, guest);
    else out_.move(kScratch1, static_cast<unsigned>(host));
  };
  give_up_flags(live_in(index_));
  address(insn, true);
  offset_to_r10();
  if (size == 4) out_.bytes({0x4d, 0x63, 0xd2});                          // movsxd r10, r10d
  out_.bytes({0x49, 0xc1, 0xfa, static_cast<uint8_t>(size == 8 ? 6 : 5)});  // sar r10, 6 or 5
  out_.lea(kScratch0, kScratch0, kScratch1, size, 0);
  translate_address({MemoryChecks::recent_key(insn), size, true, insn.mnemonic != Mnemonic::kBt, insn.segment});
  offset_to_r10();
  out_.bytes({0x41, 0x83, 0xe2, static_cast<uint8_t>(size * 8 - 1)});  // and r10d, 63 or 31
  if (d.live_out & ~insn.flags_written) {
    out_.restore_flags_by(kCarry);  // neither scratch register is free
    flags_.host = true;
  }
  note_side(d);
  reencode(out_, insn, Rename{.reg = static_cast<int>(kScratch1), .memory = static_cast<int>(kScratch0)});
  flags_ = {true, false};
}

void Translation::move_offset(Decoded& d) {
  const Insn& insn = d.insn;
  const Operand& moffs = insn.operands[insn.operands[0].kind == OperandKind::kMoffs ? 0 : 1];
  bool write = static_cast<unsigned>(moffs.access) & 2;
  give_up_flags(live_in(index_));
  out_.move_imm(kScratch0, static_cast<uint64_t>(insn.displacement));
  if (long_ && checks_.by_tlb(insn.segment) && insn.segment >= kFS) add_base(insn.segment);
  translate_address({insn.segment == kFS ? kRecentFs : insn.segment == kGS ? kRecentGs : kRecentNoBase, moffs.size, !write, write, insn.segment});
  note_side(d);
  if (moffs.size == 2) out_.u8(0x66);
  out_.u8(moffs.size == 8 ? 0x49 : 0x41);
  out_.bytes({static_cast<uint8_t>((write ? 0x88 : 0x8a) | (moffs.size > 1)), 0x03});  // al/ax/eax/rax, [r11]
}

}  // namespace vireo::softkvm
