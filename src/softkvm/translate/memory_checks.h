// SPDX-License-Identifier: Apache-2.0
// The checks in front of a block's accesses to guest memory: from a guest address to the host's by the inline TLB or by a register's recent page,
// and what is run where those do not have it. docs/engine.md, "Memory".
#pragma once

#include <cstdint>

#include "softkvm/cpu/insn.h"
#include "softkvm/cpu/vcpu_state.h"
#include "softkvm/translate/emitter.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/translator.h"

namespace vireo::softkvm {

// One access of a guest instruction.
struct MemoryAccess {
  unsigned key;       // whose recent page it may lie in: a register's number or kRecent*
  unsigned size;      // bytes
  bool read, write;
  unsigned segment;
};

class MemoryChecks {
 public:
  MemoryChecks(const VcpuState& vcpu, uint32_t mode, Emitter& out);

  // Is the inline TLB asked? Else the access helper is, which sees to the segment too.
  bool by_tlb(unsigned segment) const { return by_tlb_ >> segment & 1; }
  // Whose recent page an operand's address is compared with.
  static unsigned recent_key(const Insn& insn) {
    if (insn.segment == kFS) return kRecentFs;
    if (insn.segment == kGS) return kRecentGs;
    if (insn.rip_relative) return kRecentRip;
    return insn.base != kNoRegister ? insn.base : kRecentNoBase;
  }

  // Emits: r11, the offset (linear where by_tlb), becomes the host's address. r10 and the host's flags are clobbered. `insn` is the instruction at the
  // page offset `at`; `masked`: its elements may be masked off.
  void translate(const MemoryAccess& access, const Insn& insn, unsigned at, bool masked);
  // The same for a group of accesses, of `span` bytes from r11 on, of which this is the first and lies `delta` bytes behind r11. Where not all of them can be
  // had by one address, it jumps to where each is checked: `flags` says how it leaves the status flags.
  void translate_group(const MemoryAccess& first, const Insn& insn, unsigned at, unsigned span, unsigned delta, bool write, FlagsIn flags);
  // Emits what is run where a check has failed. Behind the block's last instruction. link(rel32, page offset, flags): where the rel32 of a jump to the
  // instruction at a page offset is, in a block of kModeUngrouped.
  template <class Link>
  void emit_misses(Link link) {
    for (unsigned i = 0; i < miss_count_; i++) {
      emit_miss(misses_[i]);
      if (misses_[i].kind == Miss::kGroup || misses_[i].kind == Miss::kRecentGroup) link(out_.patchable_jcc(4), misses_[i].descriptor & 0xfff, misses_[i].flags);
      out_.jmp_to(misses_[i].back);
    }
  }

 private:
  struct Miss {
    uint32_t from, back;  // cache offsets of the check's jump, and of where it goes on
    enum Kind : uint8_t { kIndexed, kRecent, kGroup, kRecentGroup } kind;
    FlagsIn flags;
    uint64_t descriptor;
  };
  void compare(unsigned key, unsigned bytes, bool write, Miss& miss);
  void emit_miss(const Miss& miss);
  uint32_t descriptor_of(const MemoryAccess& access, const Insn& insn, unsigned at, bool masked) const;
  // The stack's registers mostly stay on a page; others go from one object to the next, where the comparison costs more than it saves
  // (measured: with all of them gcc and Python ran half as fast again).
  bool stays_on_a_page(unsigned key) const { return (key == kRsp || key == kRbp) && recent_; }

  const VcpuState& vcpu_;
  const uint32_t off_;
  const unsigned view_;
  const bool recent_;       // are there recent pages?
  const uint8_t by_tlb_;    // bit n: by_tlb(n)
  Emitter& out_;
  Miss misses_[kMaxBlockInsns * 2];
  unsigned miss_count_ = 0;
};

}  // namespace vireo::softkvm
