// SPDX-License-Identifier: Apache-2.0
// FAST: a block is made while the guest's SIMD state is live (make_block.cpp).
#include "softkvm/translate/access_groups.h"

#include <algorithm>

#include "softkvm/translate/engine.h"

namespace vireo::softkvm {
namespace {

// A group's check fails where its span lies over the end of a page. Up to here that is rare enough by estimate: nobody has timed other bounds.
constexpr unsigned kMostSpan = 256;
constexpr uint8_t kPageBase = 16, kFirstNew = 17;  // values; those below are what the registers came in with

}  // namespace

void AccessGroups::begin() {
#pragma GCC unroll 16
  for (uint8_t r = 0; r < 16; r++) register_[r] = {r, 0};
  values_ = kFirstNew;
}

// The groups before are over, so that the values may be numbered anew.
void AccessGroups::call_out() {
  open_from_ = count_;
  in_r11_ = -1;
  begin();
}

void AccessGroups::jump_out() {
  for (unsigned g = open_from_; g < count_; g++) groups_[g].passed_jump = true;
}

void AccessGroups::lost(unsigned reg) { register_[reg] = {static_cast<uint8_t>(values_++), 0}; }

void AccessGroups::moved(unsigned to, unsigned from, int64_t by) {
  const int64_t plus = by + register_[from].plus;
  if (plus > kFarthestGrouped || plus < -kFarthestGrouped) return lost(to);
  register_[to] = {register_[from].value, static_cast<int32_t>(plus)};
}

void AccessGroups::access(unsigned index, unsigned number, Key key, int64_t at, unsigned size, bool write) {
  Member& member = members_[index][number];
  member = {-1, 0};
  if (at > kFarthestGrouped || at < -kFarthestGrouped || size == 0 || size > kMostSpan) {
    in_r11_ = -1;
    return;
  }
  const int32_t low = static_cast<int32_t>(at), high = low + static_cast<int32_t>(size);
  for (unsigned g = count_; g-- > open_from_;) {
    AccessGroup& group = groups_[g];
    if (keys_[g] != key || (write && !group.write && group.passed_jump)) continue;
    const int32_t lowest = std::min(low, group.low), highest = std::max(high, group.high);
    if (highest - lowest > static_cast<int32_t>(kMostSpan)) continue;
    group.low = lowest;
    group.high = highest;
    group.members++;
    group.write |= write;
    group.reloaded |= in_r11_ != static_cast<int>(g);
    in_r11_ = static_cast<int>(g);
    member = {static_cast<int8_t>(g), low};
    return;
  }
  groups_[count_] = {low, high, 1, write, false, false, false, -1};
  keys_[count_] = key;
  in_r11_ = static_cast<int>(count_);
  member = {static_cast<int8_t>(count_++), low};
}

void AccessGroups::memory(unsigned index, const Insn& insn, unsigned next, unsigned size, bool write) {
  unsigned base = kNoRegister, added = kNoRegister, scale = 1;
  int64_t at = insn.displacement;
  if (insn.displacement < INT32_MIN + static_cast<int64_t>(kMostSpan)) {  // the check's address has a displacement that is less
    members_[index][0] = {-1, 0};
    in_r11_ = -1;
    return;
  }
  if (insn.rip_relative) {
    base = kPageBase;
    at += next;
  }
  if (insn.base != kNoRegister) {
    base = register_[insn.base].value;
    at += register_[insn.base].plus;
  }
  if (insn.index != kNoRegister) {
    added = register_[insn.index].value;
    scale = insn.scale;
    at += int64_t{register_[insn.index].plus} * insn.scale;
  }
  access(index, 0, key_of(base, added, scale, insn.segment < kFS ? unsigned{kDS} : insn.segment), at, size, write);
}

void AccessGroups::stack(unsigned index, unsigned number, unsigned reg, int32_t displacement, unsigned size, bool write) {
  access(index, number, key_of(register_[reg].value, kNoRegister, 1, kDS), int64_t{register_[reg].plus} + displacement, size, write);
}

void AccessGroups::leave(const Insn& insn, unsigned written, unsigned next) {
  const Operand &to = insn.operands[0], &from = insn.operands[1];
  if (to.kind == OperandKind::kGpr && to.size == 8) {
    switch (insn.mnemonic) {
      case Mnemonic::kMov:
        if (from.kind == OperandKind::kGpr && from.size == 8) return moved(to.reg, from.reg, 0);
        break;
      case Mnemonic::kLea:
        if (insn.address_size != 8 || insn.index != kNoRegister) break;
        if (insn.rip_relative) {
          register_[to.reg] = {kPageBase, 0};
          return moved(to.reg, to.reg, insn.displacement + next);
        }
        if (insn.base != kNoRegister) return moved(to.reg, insn.base, insn.displacement);
        break;
      case Mnemonic::kAdd:
        if (from.kind == OperandKind::kImmediate) return moved(to.reg, to.reg, insn.immediate);
        break;
      case Mnemonic::kSub:
        if (from.kind == OperandKind::kImmediate) return moved(to.reg, to.reg, -insn.immediate);
        break;
      case Mnemonic::kInc: return moved(to.reg, to.reg, 1);
      case Mnemonic::kDec: return moved(to.reg, to.reg, -1);
      default: break;
    }
  }
  for (; written; written &= written - 1) lost(static_cast<unsigned>(__builtin_ctz(written)));
}

void AccessGroups::end() {
  int8_t slots = 0;
  for (unsigned g = 0; g < count_; g++)
    if (groups_[g].members > 1 && groups_[g].reloaded && slots < kGroupSlots) groups_[g].slot = slots++;
}

}  // namespace vireo::softkvm
