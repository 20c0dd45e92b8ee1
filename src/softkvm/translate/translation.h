// SPDX-License-Identifier: Apache-2.0
// One block being translated: what is known of it on the way, and the pieces of emitting that its parts have in common. The parts are files of their own
// (translation_*.cpp); translator.cpp has the order in which they come. FAST, all of it: a block is made while the guest's SIMD state is live
// (make_block.cpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "softkvm/cpu/decoder.h"
#include "softkvm/cpu/insn_shape.h"
#include "softkvm/translate/access_groups.h"
#include "softkvm/translate/emitter.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/memory_checks.h"
#include "softkvm/translate/reencode.h"
#include "softkvm/translate/switches.h"
#include "softkvm/translate/translator.h"

namespace vireo::softkvm {

// The last borrow slot carries values over a second access.
constexpr uint32_t kCarry = ENGINE_BORROW + 3 * 8;

// The host register that holds a guest's, or -1.
constexpr int8_t kHostOf[16] = {0, 1, 2, 3, kHostRsp, 5, 6, 7, 8, -1, -1, -1, 12, 13, 14, 15};
inline int host_of(unsigned guest) { return kHostOf[guest]; }

inline uint32_t group_at(int8_t slot) { return static_cast<uint32_t>(ENGINE + offsetof(Engine, group) + static_cast<size_t>(slot) * 8); }

inline CodeMode code_mode(uint32_t mode) {
  switch (mode & kModeCodeMask) {
    case kModeCode64: return CodeMode::k64;
    case kModeCode32: return CodeMode::k32;
    default: return CodeMode::k16;
  }
}

// Where the status flags are.
struct Flags {
  bool host = true, slot = false;
};

class Translation {
 public:
  Translation(const VcpuState& vcpu, const Source& source, uint8_t* out, uint32_t offset, Block& block, BlockNotes& notes)
      : vcpu_(vcpu), source_(source), mode_(source.mode), view_(view_of(source.mode)), code_mode_(code_mode(source.mode)),
        off_(vcpu.vm->off),
        out_(out, offset), checks_(vcpu, source.mode, out_), block_(block), notes_(notes) {
    step_ = mode_ & kModeStep;
    long_ = code_mode_ == CodeMode::k64;
    inline_stack_ = !step_ && !(off_ & kSwitchInlineStack) && mode_ & kModeFlatData && (long_ || (mode_ & kModeStack32 && code_mode_ == CodeMode::k32));
  }
  size_t run();

 private:
  struct Decoded {
    Insn insn;
    Callout callout;
    bool by_name;  // a call-out
    bool bad;
    bool masked;
    bool clobbers_r11;  // uses_r11()
    InsnShape shape;
    uint32_t live_in, live_out;
    unsigned offset;

    // The instruction itself is the decoder's to fill.
    void begin(unsigned at) { callout = Callout::kSystem, by_name = bad = masked = clobbers_r11 = false, shape.traits = 0, offset = at; }
    // What could not be decoded: a call-out for its exception, whose record has no instruction.
    void none(Callout exception) {
      blank(insn);
      insn.length = 1;
      shape = {};
      by_name = bad = true;
      callout = exception;
    }
    const Operand* memory() const { return shape.memory < 0 ? nullptr : &insn.operands[static_cast<unsigned>(shape.memory)]; }
  };

  // What is emitted behind the block's end, and where the jump to it is.
  struct Later {
    enum Kind : uint8_t { kStub, kLookup, kHostEntry, kPoll, kPollFlags, kLink, kRecord } kind;
    FlagsIn flags;
    bool ungrouped;       // kLink: to a block of kModeUngrouped
    uint32_t from;        // cache offset of the rel32
    uint32_t back;        // where to go on
    uint32_t a;           // kStub: which; kLookup: the branch, as branch_descriptor() has it, or 0
    union {
      int64_t target;     // page offset
      const Decoded* decoded;
    };
  };

  // --- which instructions, and what becomes of them: translation_instructions.cpp
  void decode_block();
  void classify(Decoded& d);
  [[gnu::noinline]] bool permitted(Decoded& d) const;
  bool bit_string(const Insn& insn) const;
  bool selector_read(const Insn& insn) const;
  bool emitted_inline(const Decoded& d) const;
  bool ends_block(const Decoded& d) const;
  static bool uses_r11(const Decoded& d);
  bool quick() const { return !step_ && !(off_ & kSwitchQuickStubs); }
  // What follows depends on bytes [from, to) of the page.
  void note_look(unsigned from, unsigned to) const {
    if (notes_.look_count >= kMostLooks || source_.straddle) {
      notes_.look_count = kMostLooks + 1;
      return;
    }
    notes_.looks[notes_.look_count++] = {static_cast<uint16_t>(from), static_cast<uint16_t>(std::min(to, 4096u) - from)};
  }
  // Is a page offset so near to the block's start that what stands there was copied and is watched?
  bool near_start(int64_t at, unsigned reach) const {
    const int64_t distance = at - static_cast<int64_t>(start_);
    return distance <= static_cast<int64_t>(reach) && distance >= -static_cast<int64_t>(reach);
  }
  static int64_t target_of(const Decoded& d) { return static_cast<int64_t>(d.offset) + d.insn.length + d.insn.immediate; }

  // --- which flags are read: translation_flags.cpp
  uint32_t live_at(int64_t target);
  uint32_t find_live_at(unsigned at);
  bool may_straddle(unsigned target) const;
  void liveness();
  bool wanted_in_slot() const;
  uint32_t live_in(unsigned i) const { return insns_[i].live_in; }

  // --- where the flags are
  // Where a jump to code that needs `live` of the flags has them.
  FlagsIn flags_in(uint32_t live) const {
    if (!live || (flags_.host && flags_.slot && !(off_ & kSwitchHostFlags))) return FlagsIn::kBoth;
    if (off_ & kSwitchHostFlags) return FlagsIn::kSlot;
    return flags_.host ? FlagsIn::kHost : FlagsIn::kSlot;
  }
  void want_flags_in_slot() {
    if (!flags_.slot && flags_.host) out_.save_flags();
    flags_.slot = true;
  }
  void want_flags_in_host() {
    if (!flags_.host) out_.restore_flags();
    flags_.host = true;
  }
  // Before code that clobbers the host's flags, while `live` of them are still needed.
  void give_up_flags(uint32_t live) {
    if (live && flags_.host && !flags_.slot) want_flags_in_slot();
    flags_.host = false;
  }
  // The flags that an instruction reads, or that pass it by, are in the host's register where it stands. r10 is clobbered.
  void flags_for(const Decoded& d) {
    if (flags_.host) return;
    const Insn& insn = d.insn;
    const uint32_t through = insn.flags_written || insn.flags_maybe ? d.live_out & ~insn.flags_written : 0;
    if ((insn.flags_read & kStatusFlags) || through) want_flags_in_host();
  }
  void flags_behind(const Insn& insn) {
    if ((insn.flags_written | insn.flags_maybe) & kStatusFlags) flags_ = {true, false};
  }

  // --- groups of accesses: translation_groups.cpp
  // Does an instruction's memory operand go through memory()?
  static bool groupable(const Decoded& d) { return d.insn.form == Form::kPlain && d.insn.address_size == 8; }
  void find_groups();
  void group_stack(unsigned i, const Decoded& d);
  void group_branch(unsigned i, const Decoded& d);
  void group_memory(unsigned i, const Decoded& d);

  // --- addresses
  // r11 = the memory operand's offset, less `before`; r10 is clobbered. With `linear`, FS and GS bases are added (64-bit mode), and the host's flags lost.
  void address(const Insn& insn, bool linear, unsigned before = 0) {
    effective_address(kScratch0, insn, insn.displacement - static_cast<int64_t>(before), insn.address_size == 8, kScratch0, kScratch1);
    if (insn.address_size == 2) out_.bytes({0x45, 0x0f, 0xb7, 0xdb});  // movzx r11d, r11w
    if (linear && long_ && insn.segment >= kFS) add_base(insn.segment);
  }
  void effective_address(unsigned to, const Insn& insn, int64_t displacement, bool wide, unsigned base_scratch, unsigned index_scratch);
  // r11 += the base of FS or GS.
  void add_base(unsigned segment) { out_.gs(0x03, kScratch0, segment == kFS ? VCPU_FS_BASE : VCPU_GS_BASE); }
  // r11: offset (linear where by_tlb) to host address. r10 and the host's flags are clobbered; the flags were given up before the address was made.
  void translate_address(const MemoryAccess& access) {
    checks_.translate(access, current_->insn, current_->offset, current_->masked);
    in_r11_ = -1;
  }
  // r11 and what is returned make the host address of the instruction's access `number` (AccessGroups::Member). lead(before): r11 = its linear address less
  // `before`. r10 and the host's flags may be clobbered.
  template <class Lead>
  int32_t reach(unsigned number, const MemoryAccess& access, uint32_t live, Lead lead) {
    const int8_t which = grouped_ ? groups_.member(index_, number).group : int8_t{-1};
    AccessGroup* group = which < 0 || groups_.group(which).members < 2 ? nullptr : &groups_.group(which);
    if (!group || (group->checked && in_r11_ != which && group->slot < 0)) {
      give_up_flags(live);
      lead(0);
      translate_address(access);
      return 0;
    }
    const int32_t delta = groups_.member(index_, number).at - group->low;
    if (group->checked) {
      if (in_r11_ != which) out_.load(kScratch0, group_at(group->slot));
    } else {
      give_up_flags(live);
      lead(static_cast<unsigned>(delta));
      checks_.translate_group(access, current_->insn, current_->offset, group->span(), static_cast<unsigned>(delta), group->write, flags_in(live));
      if (group->slot >= 0) out_.store(group_at(group->slot), kScratch0);
      group->checked = true;
    }
    in_r11_ = which;
    return delta;
  }
  int32_t memory(const Insn& insn, unsigned size, bool read, bool write, uint32_t live) {
    return reach(0, {MemoryChecks::recent_key(insn), size, read, write, insn.segment}, live,
                 [&](unsigned before) { address(insn, checks_.by_tlb(insn.segment), before); });
  }
  // r11 + what is returned: where the memory operand is in the host.
  int32_t operand_address(const Decoded& d, const Operand& mem) {
    bool read = static_cast<unsigned>(mem.access) & 1, write = static_cast<unsigned>(mem.access) & 2;
    if (!read && !write) read = true;  // clflush and its like: an address that has to be readable
    return memory(d.insn, mem.size ? mem.size : 1, read, write, live_in(index_));
  }

  // --- leaving the block: translation_exits.cpp
  Later& later(Later::Kind kind, uint32_t from) {
    Later& l = later_[later_count_++];
    l.kind = kind;
    l.from = from;
    return l;
  }
  void emit_later(const Later& l);
  void poll_compare() {
    out_.bytes({0x65, 0x83, 0x3c, 0x25});  // cmp dword gs:[attention], 0
    out_.u32(VCPU_ATTENTION);
    out_.u8(0);
  }
  // r11 = linear address of a page offset (which may lie outside of the page).
  void linear_of(int64_t page_offset) {
    out_.load(kScratch0, VCPU_PAGE_BASE);
    const auto near = static_cast<int32_t>(std::min<int64_t>(page_offset, INT32_MAX));  // a jump forward by almost 2 GiB
    out_.lea(kScratch0, kScratch0, 0xff, 1, near, long_);
    if (near != page_offset) out_.lea(kScratch0, kScratch0, 0xff, 1, static_cast<int32_t>(page_offset - near), long_);
  }
  // `branch` in what follows: the near branch that leads out, if it may be refused there: branch_descriptor(), or 0.
  uint32_t refusable(const Decoded& d, int moved = 0) const { return long_ || !(mode_ & kModeFlatCode) ? branch_descriptor(d.offset, moved) : 0; }
  void lookup(uint32_t branch);
  void indirect_exit(uint32_t branch = 0);
  bool may_link(int64_t target) const;
  void exit_to(int64_t target, bool poll, uint32_t branch = 0);
  void poll_beside_flags(int64_t target);
  void link_site(uint32_t at, int64_t target, FlagsIn flags) {
    Later& l = later(Later::kLink, at);
    l.target = target;
    l.flags = flags;
    l.ungrouped = false;
  }

  // --- instructions
  void emit(Decoded& d);
  unsigned stub_of(const Decoded& d) const;
  void call_out(Decoded& d);
  // The side entry for what may raise a host exception at the next emitted byte.
  void note_side(const Decoded& d, const SideEntry* borrowed = nullptr) {
    SideEntry& e = notes_.side[notes_.side_count++];
    e = borrowed ? *borrowed : SideEntry{};
    e.host = out_.here();
    e.guest = static_cast<uint16_t>(d.offset);
    e.host_flags = flags_.host && !flags_.slot;
  }
  // translation_plain.cpp
  void plain(Decoded& d);
  void copied(Decoded& d);
  void lea(Decoded& d);
  void selector(Decoded& d);
  void masked_store(Decoded& d);
  void bit_in_memory(Decoded& d);
  void move_offset(Decoded& d);
  // LEA that leaves r11 as it is.
  static bool direct_lea(const Insn& insn) { return insn.operands[0].size >= 4 && insn.address_size >= 4 && !(in_slot(insn.base) && in_slot(insn.index)); }
  static bool in_slot(unsigned guest) { return guest != kNoRegister && host_of(guest) < 0; }
  // translation_displaced.cpp
  bool constant_to_slot(const Decoded& d);
  static const Operand* left_in_slot(const Insn& insn, Rename& rename);
  static int borrow(const InsnShape& shape, uint32_t& taken);
  [[gnu::noinline]] void renamed(Decoded& d);
  // translation_stack.cpp
  unsigned stack_size() const { return long_ ? 8 : 4; }
  int32_t push_address(uint32_t live);
  int32_t top_address(unsigned reg, uint32_t live);
  void move_rsp(int32_t by) { out_.lea(kHostRsp, kHostRsp, 0xff, 1, by, long_); }
  void store_top(unsigned reg, int32_t at) { out_.memory_form(0x89, reg, kScratch0, 0xff, 1, at, long_); }
  void load_top(unsigned reg, int32_t at) { out_.memory_form(0x8b, reg, kScratch0, 0xff, 1, at, long_); }
  void put(unsigned guest, unsigned host) {
    int to = host_of(guest);
    if (to < 0) out_.store_gpr(guest, host);
    else out_.move(to, host);
  }
  void stack(Decoded& d);
  // translation_branches.cpp
  void branch(Decoded& d);
  void near_target(Decoded& d, uint32_t live);

  const VcpuState& vcpu_;
  const Source& source_;
  uint32_t mode_;
  unsigned view_;
  CodeMode code_mode_;
  const uint32_t off_;  // translate/switches.h
  bool step_ = false, long_ = false, inline_stack_ = false, ended_ = false;
  Emitter out_;
  MemoryChecks checks_;
  Block& block_;
  BlockNotes& notes_;
  // LOOPcc: two exits with a poll, a link and a lookup each; everything else has fewer.
  Later later_[kMaxBlockInsns * 6 + 4];
  unsigned later_count_ = 0;
  struct {
    uint16_t offset, live;
  } known_[2 * kMaxBlockInsns + 2];  // what live_at() has found
  unsigned known_count_ = 0;
  // Not set to Insn's default values, which would be for nothing: the decoder fills each.
  union {
    Decoded insns_[kMaxBlockInsns];
  };
  Decoded* current_ = nullptr;
  unsigned count_ = 0, index_ = 0, start_ = 0, end_ = 0;
  unsigned dependency_begin_ = 0, dependency_end_ = 0;
  Flags flags_;
  bool grouped_ = false;  // accesses may share their checks
  int in_r11_ = -1;       // the group whose host address r11 is, or -1
  AccessGroups groups_;
};

}  // namespace vireo::softkvm
