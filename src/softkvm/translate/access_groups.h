// SPDX-License-Identifier: Apache-2.0
// Which of a block's accesses to guest memory can share one check: those whose addresses differ by a constant, since they are made from the
// same values of the same registers. Found before the block is emitted, by one pass over its instructions. docs/engine.md, "Memory".
#pragma once

#include <cstdint>

#include "softkvm/cpu/insn.h"
#include "softkvm/translate/translator.h"

namespace vireo::softkvm {

// Displacements beyond it are taken for values of their own, so that no sum of some overflows.
constexpr int64_t kFarthestGrouped = 1 << 28;

// The accesses that one check is for: it stands in front of the first of them.
struct AccessGroup {
  int32_t low, high;   // of all accesses, first byte and behind the last, counted from what their addresses have in common
  uint8_t members;
  bool write;          // the check is for writing: a write is sure to follow
  bool passed_jump;    // a conditional jump out of the block stands behind the first access
  bool reloaded;       // r11 does not keep the host's address from each access to the next
  bool checked;        // the translator has emitted the check
  int8_t slot;         // Engine::group that keeps it, or -1

  unsigned span() const { return static_cast<unsigned>(high - low); }
};

class AccessGroups {
 public:
  // An instruction's access: number 0, or 1 where it is that to the stack beside another one.
  struct Member {
    int8_t group;  // or -1: it has a check of its own
    int32_t at;    // of its first byte, as AccessGroup::low
  };

  void begin();
  // The instructions of the block, in order. `clobbers`: r11 is used for something else.
  void call_out();                     // anything may happen
  void jump_out();                     // a conditional one
  void clobber() { in_r11_ = -1; }
  void alone(unsigned insn_index, unsigned number) {  // an access with a check of its own
    members_[insn_index][number] = {-1, 0};
    in_r11_ = -1;
  }
  void memory(unsigned insn_index, const Insn& insn, unsigned next, unsigned size, bool write);
  void stack(unsigned insn_index, unsigned number, unsigned reg, int32_t displacement, unsigned size, bool write);
  void registers(const Insn& insn, uint16_t written, unsigned next) {  // what it leaves in the registers that it writes
    if (written) leave(insn, written, next);
  }
  void moved(unsigned to, unsigned from, int64_t by);
  void lost(unsigned reg);
  // No more. Slots are given.
  void end();

  const Member& member(unsigned insn_index, unsigned number) const { return members_[insn_index][number]; }
  AccessGroup& group(int8_t number) { return groups_[number]; }

 private:
  static constexpr unsigned kMostGroups = 2 * kMaxBlockInsns;
  // A value that a register had somewhere in the block, and what is added to it.
  struct Known {
    uint8_t value;
    int32_t plus;
    bool operator==(const Known&) const = default;
  };
  // What the addresses of a group have in common: base, index, scale and segment.
  using Key = uint32_t;
  static Key key_of(unsigned base, unsigned index, unsigned scale, unsigned segment) { return base | index << 8 | scale << 16 | segment << 24; }
  void leave(const Insn& insn, unsigned written, unsigned next);
  void access(unsigned insn_index, unsigned number, Key key, int64_t at, unsigned size, bool write);

  Known register_[16];
  unsigned values_ = 0;
  AccessGroup groups_[kMostGroups];
  Key keys_[kMostGroups];
  unsigned count_ = 0, open_from_ = 0;  // those before are over
  int in_r11_ = -1;
  Member members_[kMaxBlockInsns][2];
};

}  // namespace vireo::softkvm
