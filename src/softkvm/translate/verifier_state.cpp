// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/verifier_state.h"

#include <cstring>

#include "softkvm/cpu/decoder.h"
#include "softkvm/translate/emitter.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/verifier_allow.h"

namespace vireo::softkvm {
namespace {

using Kind = Value::Kind;
using Compared = MachineState::Compared;
constexpr unsigned kIndex = kScratch1, kAddress = kScratch0, kStackRegister = 4;

bool is_gpr(const Operand& o, unsigned reg, unsigned size) {
  return o.kind == OperandKind::kGpr && !o.high && o.reg == reg && o.size == size;
}

bool within(uint64_t at, uint64_t first, unsigned words) { return at >= first && at < first + words * 8 && (at - first) % 8 == 0; }

// Elements may be masked off: the translator takes these as they are, though their form is special.
bool masked(const Insn& insn) {
  return insn.mnemonic == Mnemonic::kMaskmovq || insn.mnemonic == Mnemonic::kMaskmovdqu || insn.mnemonic == Mnemonic::kVmaskmovdqu ||
         (insn.encoding != Encoding::kLegacy && insn.memory_operand());
}
// BT and its kin on memory, with a bit offset in a register.
bool bit_string(const Insn& insn) {
  if (insn.encoding != Encoding::kLegacy || insn.map != OpcodeMap::k0F || !insn.memory_operand()) return false;
  return insn.opcode == 0xa3 || insn.opcode == 0xab || insn.opcode == 0xb3 || insn.opcode == 0xbb;
}
bool stores_to_rdi(const Insn& insn) { return masked(insn) && !insn.memory_operand(); }

// May it raise a host exception without naming memory?
bool may_trap(const Insn& insn) {
  if (insn.encoding == Encoding::kLegacy && insn.map == OpcodeMap::kOneByte && insn.opcode >= 0xd8 && insn.opcode <= 0xdf) return true;
  if (insn.mnemonic == Mnemonic::kFwait || insn.mnemonic == Mnemonic::kDiv || insn.mnemonic == Mnemonic::kIdiv) return true;
  for (unsigned i = 0; i < insn.operand_count; i++)
    if (insn.operands[i].kind == OperandKind::kVector || insn.operands[i].kind == OperandKind::kMmx) return true;
  return false;
}

}  // namespace

bool is_link_stub(const Insn& insn) {
  if (insn.mnemonic != Mnemonic::kCall || !insn.memory_operand() || insn.segment != kGS || insn.base != kNoRegister || insn.index != kNoRegister || insn.rip_relative)
    return false;
  const uint64_t which = static_cast<uint64_t>(insn.displacement) - ENGINE_STUBS;
  return which == STUB_LINK * 8 || which == STUB_LINK_SLOT * 8;
}

MachineState entry_state() {
  MachineState s;
  for (unsigned r = 0; r < 16; r++)
    if (r != kStackRegister && r != kIndex) s.reg[r] = {.kind = Kind::kPlain, .id = r};
  return s;
}

void join(MachineState& into, const MachineState& other, uint32_t at) {
  for (unsigned s = 0; s < kGroupSlots; s++)
    if (into.group[s] != other.group[s]) into.group[s] = {};
  for (unsigned r = 0; r < 16; r++) {
    Value &a = into.reg[r], b = other.reg[r];
    if (a == b) continue;
    if (a.kind == Kind::kHost && b.kind == Kind::kHost && a.id == b.id)
      a.rights &= b.rights, a.amount = a.amount < b.amount ? a.amount : b.amount;
    else if (a.plain() && b.plain())
      a = {.kind = Kind::kPlain, .id = uint64_t{at} << 8 | 0x80 | r};
    else
      a = {};
  }
  if (into.compared != other.compared || into.compared_id != other.compared_id || into.room != other.room) into.compared = Compared::kNothing;
  into.after_callout = into.after_callout && other.after_callout;
  into.by_address = into.by_address && other.by_address;
}

BlockRules::BlockRules(const EmittedBlock& block)
    : block_(block), stepping_(block.mode & kModeStep), view_(view_of(block.mode)) {}

bool BlockRules::site_stub(uint32_t stub) const {
  for (const LinkSite& s : block_.sites)
    if (s.unlinked == stub) return true;
  return false;
}

bool BlockRules::site(uint32_t rel32) const {
  for (const LinkSite& s : block_.sites)
    if (s.at == rel32) return true;
  return false;
}

// One instruction's work. Each part gives false with `rule` set.
struct BlockRules::Step {
  const BlockRules& rules;
  const Insn& insn;
  uint32_t at;
  const MachineState& before;
  StepResult out;
  Rule rule{};

  bool broken(Rule r) {
    rule = r;
    return false;
  }
  const Value& reg(unsigned r) const { return before.reg[r]; }
  void set(unsigned r, Value v) { out.next.reg[r] = v; }
  void set_plain(unsigned r) { set(r, {.kind = Kind::kPlain, .id = uint64_t{at} << 8 | r}); }

  bool has_side_entry() const {
    for (const SideEntry& e : rules.block_.side)
      if (e.host == at) return true;
    return false;
  }

  // --- prefixes

  bool prefixes() {
    for (unsigned i = 0; i < insn.length; i++) {
      switch (insn.bytes[i]) {
        case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: return broken(Rule::kPrefix);
        case 0x65:
          if (!insn.memory_operand() || insn.encoding != Encoding::kLegacy) return broken(Rule::kPrefix);
          break;
        case 0x67:
          if (insn.mnemonic != Mnemonic::kJcxz) return broken(Rule::kPrefix);
          break;
        case 0xf0:
          if (insn.segment_prefix != kNoRegister) return broken(Rule::kPrefix);
          break;
        case 0xf2: case 0xf3:
          if (!insn.mandatory_prefix) return broken(Rule::kPrefix);
          break;
        case 0x66: break;
        default: return true;
      }
    }
    return true;
  }

  // --- registers as plain operands

  bool readable(unsigned r) {
    if (r == kStackRegister) return broken(Rule::kHostStack);
    if (reg(r).kind == Kind::kUndefined) return broken(Rule::kUndefined);
    return reg(r).plain() || broken(Rule::kHostAddress);
  }
  bool guest_registers_clean() {
    for (unsigned r = 0; r < 16; r++) {
      if (r == kStackRegister || r == kIndex || r == kAddress) continue;
      if (!readable(r)) return false;
    }
    return true;
  }
  bool operands() {
    for (unsigned i = 0; i < insn.operand_count; i++) {
      const Operand& o = insn.operands[i];
      if (o.kind != OperandKind::kGpr) continue;
      if (!o.high && o.reg == kStackRegister) return broken(Rule::kHostStack);
      // A part written leaves the rest.
      if ((static_cast<unsigned>(o.access) & 1 || o.size < 4) && !readable(o.reg)) return false;
      if (static_cast<unsigned>(o.access) & 2) set_plain(o.reg);
    }
    return true;
  }

  // --- guest memory

  bool access(unsigned base, int64_t behind, unsigned size, bool read, bool write) {
    const Value& v = reg(base);
    if (v.kind != Kind::kHost) return broken(Rule::kUnchecked);
    if (size == 0) {
      if (insn.mnemonic != Mnemonic::kClflush && insn.mnemonic != Mnemonic::kClflushopt && insn.mnemonic != Mnemonic::kClwb)
        return broken(Rule::kTooWide);
      size = 1;
    }
    if (behind < 0 || behind > v.amount || size > v.amount - behind) return broken(Rule::kTooWide);
    if (!read && !write) read = true;
    if ((read && !(v.rights & kReadable)) || (write && !(v.rights & kWritable))) return broken(Rule::kRights);
    return has_side_entry() || broken(Rule::kSideTable);
  }
  bool guest_memory(const Operand& mem) {
    if (insn.rip_relative) return broken(Rule::kRipRelative);
    if (insn.base == kStackRegister) return broken(Rule::kHostStack);
    if (insn.base == kNoRegister || insn.index != kNoRegister || insn.address_size != 8) return broken(Rule::kUnchecked);
    return access(insn.base, insn.displacement, mem.size, static_cast<unsigned>(mem.access) & 1, static_cast<unsigned>(mem.access) & 2);
  }

  // --- GS-relative: the vCPU's slots, stubs, TLB and jump cache

  // An instruction that has a displaced register of the guest's for its memory operand: reads what it wants of it, and writes it whole
  // (but for LEA of 16 bits).
  bool displaced_register(const Operand& mem) {
    const bool writes = static_cast<unsigned>(mem.access) & 2, whole = mem.size == 8 || (mem.size == 2 && insn.mnemonic == Mnemonic::kMov);
    if (mem.size > 8 || (writes && !whole)) return broken(Rule::kSlot);
    switch (insn.mnemonic) {
      case Mnemonic::kAdd:
      case Mnemonic::kOr:
      case Mnemonic::kAdc:
      case Mnemonic::kSbb:
      case Mnemonic::kAnd:
      case Mnemonic::kSub:
      case Mnemonic::kXor:
      case Mnemonic::kCmp:
      case Mnemonic::kTest:
      case Mnemonic::kMov:
      case Mnemonic::kMovzx:
      case Mnemonic::kMovsx:
      case Mnemonic::kMovsxd:
      case Mnemonic::kCmovcc:
      case Mnemonic::kImul:
      case Mnemonic::kMul:
      case Mnemonic::kInc:
      case Mnemonic::kDec:
      case Mnemonic::kNot:
      case Mnemonic::kNeg:
      case Mnemonic::kRol:
      case Mnemonic::kRor:
      case Mnemonic::kRcl:
      case Mnemonic::kRcr:
      case Mnemonic::kShl:
      case Mnemonic::kShr:
      case Mnemonic::kSar: break;
      default: return broken(Rule::kSlot);
    }
    return operands();
  }

  bool slot(uint64_t where, const Operand& mem) {
    const bool full = mem.size == 8;
    if (within(where, VCPU_GPR + 9 * 8, 3)) return displaced_register(mem);
    switch (insn.mnemonic) {
      case Mnemonic::kMov: {
        const bool store = insn.operands[0].kind == OperandKind::kMemory;
        const Operand& o = insn.operands[store ? 1 : 0];
        if (o.kind != OperandKind::kGpr || o.high || insn.lock) return broken(Rule::kSlot);
        if (within(where, ENGINE + offsetof(Engine, group), kGroupSlots)) return (full && is_gpr(o, kAddress, 8) && group(where, store)) || broken(Rule::kSlot);
        const bool borrow = within(where, ENGINE_BORROW, 4);
        const bool ok = store ? (borrow && full) || (where == VCPU_FLAGS && mem.size == 2) || (where == VCPU_PAGE_BASE && full && before.by_address)
                        : where == VCPU_ATTENTION ? mem.size == 4 && is_gpr(o, kRcx, 4)
                                                  : full && (borrow || where == VCPU_PAGE_BASE);
        return ok ? operands() : broken(Rule::kSlot);
      }
      case Mnemonic::kMovzx: {
        const bool selector = where >= VCPU_SELECTOR && where <= VCPU_SELECTOR + kGS * SEGMENT_SIZE && (where - VCPU_SELECTOR) % SEGMENT_SIZE == 0;
        return (where == VCPU_FLAGS || selector) && mem.size == 2 ? operands() : broken(Rule::kSlot);
      }
      case Mnemonic::kCmp:
        if (where == VCPU_PAGE_BASE) return (full && is_gpr(insn.operands[0], kIndex, 8) && before.by_address && readable(kIndex)) || broken(Rule::kSlot);
        return where == VCPU_ATTENTION && mem.size == 4 && insn.immediate_size == 1 && insn.immediate == 0 &&
                       insn.operands[0].kind == OperandKind::kMemory
                   ? true
                   : broken(Rule::kSlot);
      case Mnemonic::kCall:
      case Mnemonic::kJmp: return within(where, ENGINE_STUBS, 32) ? stub((where - ENGINE_STUBS) / 8) : broken(Rule::kSlot);
      case Mnemonic::kAdd:
        if (where == VCPU_FS_BASE || where == VCPU_GS_BASE) return full && is_gpr(insn.operands[0], kAddress, 8) ? operands() : broken(Rule::kSlot);
        [[fallthrough]];
      case Mnemonic::kXor: return (full && insn.operands[1].kind == OperandKind::kMemory && recent(where)) || broken(Rule::kSlot);
      default: return broken(Rule::kSlot);
    }
  }

  // A host address is kept for the other accesses of its group, or had again. Nothing else is ever in the slot.
  bool group(uint64_t where, bool store) {
    const size_t slot = (where - ENGINE - offsetof(Engine, group)) / 8;
    if (store) {
      if (reg(kAddress).kind != Kind::kHost) return false;
      out.next.group[slot] = reg(kAddress);
      return true;
    }
    if (before.group[slot].kind != Kind::kHost) return false;
    set(kAddress, before.group[slot]);
    return true;
  }

  // The recent page of a register: its tag to compare with, its host page to add.
  bool recent(uint64_t where) {
    const uint64_t table = ENGINE + offsetof(Engine, recent) + rules.view_ * 2 * kRecentKeys * sizeof(RecentPage);
    const Value& r11 = reg(kAddress);
    if (where < table || where >= table + 2 * kRecentKeys * sizeof(RecentPage) || rules.stepping_ || !is_gpr(insn.operands[0], kAddress, 8))
      return broken(Rule::kSlot);
    const bool write = where >= table + kRecentKeys * sizeof(RecentPage);
    const uint32_t page = static_cast<uint32_t>(where - (where - table) % sizeof(RecentPage)), member = (where - table) % sizeof(RecentPage);
    if (insn.mnemonic == Mnemonic::kXor && member == offsetof(RecentPage, tag)) {
      const uint8_t rights = write ? kReadable | kWritable : kReadable;  // pages are never writable alone
      if (!r11.address()) return broken(Rule::kTlbIndex);
      set(kAddress, {.kind = Kind::kTagged, .rights = rights, .id = r11.id, .page = page});
      return true;
    }
    if (insn.mnemonic != Mnemonic::kAdd || member != offsetof(RecentPage, addend)) return broken(Rule::kSlot);
    if (r11.kind != Kind::kHit || r11.page != page) return broken(Rule::kTlbIndex);
    set(kAddress, {.kind = Kind::kHost, .rights = r11.rights, .id = r11.id, .amount = r11.amount});
    return true;
  }

  // Is the record's instruction the stub's own? The record was looked at where its address was taken.
  bool quick_record(uint64_t which, uint32_t offset) const {
    CalloutRecord record;
    memcpy(&record, rules.block_.code + (offset - rules.block_.offset), sizeof record);
    const Insn& of = record.insn;
    switch (which) {
      case STUB_CLI: return of.mnemonic == Mnemonic::kCli;
      case STUB_STI: return of.mnemonic == Mnemonic::kSti;
      case STUB_SWAPGS: return of.mnemonic == Mnemonic::kSwapgs;
      default:
        return of.mnemonic == (which < STUB_STOS ? Mnemonic::kMovs : Mnemonic::kStos) && of.rep && of.address_size == 8 && of.mode == CodeMode::k64 &&
               of.segment < kFS && rules.block_.mode & kModeFlatData &&
               1u << (which - (which < STUB_STOS ? STUB_MOVS : STUB_STOS)) == (of.opcode & 1 ? of.operand_size : 1u);
    }
  }

  // What the stub for a failed check reads behind its call: MOV of a constant of `bytes` to r10.
  std::optional<uint64_t> descriptor(unsigned bytes) const {
    const uint32_t behind = at + insn.length - rules.block_.offset;
    Insn move;
    if (behind >= rules.block_.size || decode(rules.block_.code + behind, rules.block_.size - behind, CodeMode::k64, move) != DecodeStatus::kOk) return {};
    if (move.mnemonic != Mnemonic::kMov || !is_gpr(move.operands[0], kIndex, bytes) || move.immediate_size != bytes) return {};
    static_assert(DESCRIPTOR_BEHIND == 2);
    if (move.length != DESCRIPTOR_BEHIND + bytes) return {};
    return bytes == 4 ? static_cast<uint32_t>(move.immediate) : static_cast<uint64_t>(move.immediate);
  }
  // Is r11 an address xor the tag, for reading or writing, of a RecentPage at `page`, or of the TLB's entry that r10 names?
  bool tagged(bool write, uint64_t page) const {
    const Value &r11 = reg(kAddress), &r10 = reg(kIndex);
    if (r11.kind != Kind::kTagged || !(r11.rights & kWritable) == write || r11.page != page) return false;
    return page || (r10.kind == Kind::kTlbIndex && r10.id == r11.id);
  }
  uint64_t recent_page(bool write, unsigned key) const {
    return ENGINE + offsetof(Engine, recent) + ((rules.view_ * 2 + write) * kRecentKeys + key) * sizeof(RecentPage);
  }
  bool missed(uint32_t descriptor) {
    const uint64_t address = reg(kAddress).id;
    const uint8_t rights = (descriptor & kAccessRead ? kReadable : 0) | (descriptor & kAccessWrite ? kWritable : 0);
    after_call();
    set(kAddress, {.kind = Kind::kHost, .rights = rights, .id = address, .amount = descriptor >> kAccessSizeShift & 0x3ff});
    return true;
  }

  // stubs.S says what each takes and leaves.
  bool stub(uint64_t which) {
    const bool call = insn.mnemonic == Mnemonic::kCall;
    const Value &r11 = reg(kAddress), &r10 = reg(kIndex);
    if (!guest_registers_clean()) return false;
    if (which >= STUB_RECENT && which < STUB_RECENT + 2 * kViews) {
      // It enters the page into the RecentPage named: the one that was compared with.
      const std::optional<uint64_t> what = descriptor(8);
      if (!call || !what || rules.stepping_ || (which - STUB_RECENT) / 2 != rules.view_) return broken(Rule::kStub);
      const bool write = *what & kAccessWrite;
      if ((which - STUB_RECENT) % 2 != write || !(*what >> 32) || !tagged(write, *what >> 32)) return broken(Rule::kStub);
      return missed(static_cast<uint32_t>(*what));
    }
    switch (which) {
      case STUB_MISS: {
        const std::optional<uint64_t> what = descriptor(4);
        if (!call || !what || rules.stepping_ || !tagged(*what & kAccessWrite, 0)) return broken(Rule::kStub);
        return missed(static_cast<uint32_t>(*what));
      }
      case STUB_ACCESS:
        if (!call || !r11.address() || r10.kind != Kind::kConstant) return broken(Rule::kStub);
        return missed(r10.amount);
      case STUB_GROUP: {
        const std::optional<uint64_t> what = descriptor(8);
        if (!call || !what || rules.stepping_) return broken(Rule::kStub);
        const uint32_t first = static_cast<uint32_t>(*what), group = static_cast<uint32_t>(*what >> 32);
        const uint32_t span = group & 0xfff, delta = group >> kGroupDeltaShift & 0xfff, recent = group >> kGroupRecentShift & kNoRecent;
        const uint32_t size = first >> kAccessSizeShift & 0x3ff;
        if (group >> 30 || delta > span || size > span - delta || (recent != kNoRecent && recent >= kRecentKeys)) return broken(Rule::kStub);
        const bool write = group & kGroupWrite;
        if (!tagged(write, recent != kNoRecent ? recent_page(write, recent) : 0)) return broken(Rule::kStub);
        if (first & kAccessWrite && !write) return broken(Rule::kRights);
        after_call();
        const uint8_t rights = write ? kReadable | kWritable : kReadable;
        set(kAddress, {.kind = Kind::kGroup, .rights = rights, .id = r11.id, .amount = span});
        out.next.compared = Compared::kGroup;
        return true;
      }
      case STUB_CALLOUT:
        if (!call || r11.kind != Kind::kRecord) return broken(Rule::kStub);
        after_call();
        forget_groups();
        out.next.after_callout = true;
        return true;
      case STUB_CLI:
      case STUB_STI:
      case STUB_SWAPGS:
      case STUB_MOVS: case STUB_MOVS + 1: case STUB_MOVS + 2: case STUB_MOVS + 3:
      case STUB_STOS: case STUB_STOS + 1: case STUB_STOS + 2: case STUB_STOS + 3:
        if (!call || r11.kind != Kind::kRecord || rules.stepping_ || !quick_record(which, r11.amount)) return broken(Rule::kStub);
        after_call();
        forget_groups();
        out.next.after_callout = true;
        return true;
      case STUB_RFLAGS:
        if (!call || rules.stepping_ || (rules.block_.mode & kModeCodeMask) != kModeCode64) return broken(Rule::kStub);
        after_call();
        set_plain(kIndex);
        return true;
      case STUB_LOOKUP:
      case STUB_POLL: return (!call && r11.plain() && !rules.stepping_) || broken(Rule::kStub);
      case STUB_LOOKUP_BRANCH:
        return (!call && r11.plain() && r10.kind == Kind::kConstant && !r10.page && r10.amount & kIsBranch && !rules.stepping_) || broken(Rule::kStub);
      case STUB_LINK_SLOT:
      case STUB_LINK: return (call && rules.site_stub(at) && !rules.stepping_) || broken(Rule::kStub);
      case STUB_STEP_DONE: return (!call && r11.plain() && rules.stepping_) || broken(Rule::kStub);
      default: return broken(Rule::kStub);
    }
  }
  // What the TLB says may be another thing behind a call-out.
  void forget_groups() {
    for (Value& v : out.next.group) v = {};
  }
  void after_call() {
    for (unsigned r = 0; r < 16; r++)
      if (r != kStackRegister) set_plain(r);
    set(kIndex, {});
    set(kAddress, {});
    out.next.compared = Compared::kNothing;
  }

  bool tlb(uint64_t where) {
    const Operand &to = insn.operands[0], &from = insn.operands[1];
    if (rules.stepping_ || insn.index != kIndex || insn.scale != 8 || insn.base != kNoRegister || !is_gpr(to, kAddress, 8) ||
        from.kind != OperandKind::kMemory || from.size != 8)
      return broken(Rule::kSlot);
    const uint64_t view = ENGINE + offsetof(Engine, tlb) + rules.view_ * sizeof(TlbView);
    const Value &r11 = reg(kAddress), &r10 = reg(kIndex);
    if (r10.kind != Kind::kTlbIndex) return broken(Rule::kTlbIndex);
    if (insn.mnemonic == Mnemonic::kXor) {
      uint8_t rights;
      if (where == view + offsetof(TlbView, read)) rights = kReadable;
      else if (where == view + offsetof(TlbView, write)) rights = kReadable | kWritable;  // pages are never writable alone
      else return broken(Rule::kSlot);
      if (r11.id != r10.id) return broken(Rule::kTlbIndex);
      if (!r11.address()) return broken(Rule::kTlbIndex);
      set(kAddress, {.kind = Kind::kTagged, .rights = rights, .id = r11.id});
      return true;
    }
    if (insn.mnemonic != Mnemonic::kAdd || where != view + offsetof(TlbView, addend)) return broken(Rule::kSlot);
    if (r11.kind != Kind::kHit || r11.page || r11.id != r10.id) return broken(Rule::kTlbIndex);
    set(kAddress, {.kind = Kind::kHost, .rights = r11.rights, .id = r11.id, .amount = r11.amount});
    return true;
  }

  bool jump_cache(uint64_t where) {
    if (rules.stepping_ || insn.base != kIndex || insn.index != kNoRegister) return broken(Rule::kSlot);
    const uint64_t table = ENGINE + offsetof(Engine, jump) + rules.view_ * sizeof(JumpEntry) * kJumpEntries;
    const Value &r11 = reg(kAddress), &r10 = reg(kIndex);
    if (r10.kind != Kind::kJumpByte || !r11.address() || r10.id != r11.id) return broken(Rule::kTlbIndex);
    if (insn.mnemonic == Mnemonic::kCmp) {
      if (where != table + offsetof(JumpEntry, tag) || !is_gpr(insn.operands[0], kAddress, 8)) return broken(Rule::kSlot);
      out.next.compared = Compared::kJump;
      out.next.compared_id = r11.id;
      return true;
    }
    if (insn.mnemonic != Mnemonic::kJmp || where != table + offsetof(JumpEntry, code)) return broken(Rule::kSlot);
    if (before.compared != Compared::kJumpEqual || before.compared_id != r11.id) return broken(Rule::kTlbIndex);
    return guest_registers_clean();
  }

  bool vcpu_memory(const Operand& mem) {
    if (insn.rip_relative || insn.address_size != 8 || insn.lock) return broken(Rule::kSlot);
    const uint64_t where = static_cast<uint64_t>(insn.displacement);
    if (insn.base == kNoRegister && insn.index == kNoRegister) return slot(where, mem);
    return insn.index != kNoRegister ? tlb(where) : jump_cache(where);
  }

  // --- LEA, moves and the arithmetic of the checks

  bool lea() {
    const Operand& to = insn.operands[0];
    if (to.reg == kStackRegister || insn.base == kStackRegister) return broken(Rule::kHostStack);
    if (to.size < 4) return broken(Rule::kForbidden);
    if (!insn.rip_relative) {
      if (insn.base != kNoRegister && !readable(insn.base)) return false;
      if (insn.index != kNoRegister && !readable(insn.index)) return false;
      set_plain(to.reg);
      return true;
    }
    const uint32_t target = at + insn.length + static_cast<uint32_t>(insn.displacement);
    if (!is_gpr(to, kAddress, 8) || rules.site(target)) return broken(Rule::kRipRelative);
    out.record = target;
    set(kAddress, {.kind = Kind::kRecord, .amount = target});
    return true;
  }

  // The steps of a check that lie in registers; false: nothing special.
  bool check_step() {
    const Operand &to = insn.operands[0], &from = insn.operands[1];
    switch (insn.mnemonic) {
      case Mnemonic::kMov:
        if (to.kind != OperandKind::kGpr || to.size < 4 || to.high || to.reg == kStackRegister) return false;
        if (from.kind == OperandKind::kImmediate) {
          uint64_t v = static_cast<uint64_t>(insn.immediate);
          if (to.size == 4) v &= 0xffffffff;
          if (v > 0xffffffff && to.reg != kIndex) return false;
          set(to.reg, {.kind = Kind::kConstant, .id = uint64_t{at} << 8 | to.reg, .amount = static_cast<uint32_t>(v),
                       .page = static_cast<uint32_t>(v >> 32)});
          return true;
        }
        // A copy may be of a host address: the emitter moves one to a low register for AH to BH and MASKMOV.
        if (from.kind != OperandKind::kGpr || from.high || to.size != 8 || from.size != 8 || from.reg == kStackRegister) return false;
        if (reg(from.reg).plain() || reg(from.reg).kind == Kind::kHost) set(to.reg, reg(from.reg));
        else return false;
        return true;
      case Mnemonic::kShr:
        if (!is_gpr(to, kIndex, 8) || insn.immediate_size != 1 || !reg(kIndex).address()) return false;
        if (insn.immediate != 12 && insn.immediate != kJumpBits) return false;
        set(kIndex, {.kind = insn.immediate == 12 ? Kind::kPageNumber : Kind::kHigh, .id = reg(kIndex).id});
        out.next.compared = Compared::kNothing;
        return true;
      case Mnemonic::kRorx:
        if (!is_gpr(to, kIndex, 8) || !is_gpr(from, kAddress, 8) || (insn.immediate != 12 && insn.immediate != kJumpBits) || !reg(kAddress).address())
          return false;
        set(kIndex, {.kind = insn.immediate == 12 ? Kind::kPageNumber : Kind::kHigh, .id = reg(kAddress).id});
        return true;
      case Mnemonic::kMovzx:
        if (!is_gpr(to, kIndex, 4) || from.kind != OperandKind::kGpr || from.size != 2 || from.high) return false;
        if (from.reg == kIndex && reg(kIndex).kind == Kind::kPageNumber) set(kIndex, {.kind = Kind::kTlbIndex, .id = reg(kIndex).id});
        else if (from.reg == kIndex && reg(kIndex).kind == Kind::kMixed) set(kIndex, {.kind = Kind::kJumpIndex, .id = reg(kIndex).id});
        else return false;
        return true;
      case Mnemonic::kXor:
        if (!is_gpr(to, kIndex, 4) || !is_gpr(from, kAddress, 4) || reg(kIndex).kind != Kind::kHigh || !reg(kAddress).address() ||
            reg(kAddress).id != reg(kIndex).id)
          return false;
        set(kIndex, {.kind = Kind::kMixed, .id = reg(kIndex).id});
        out.next.compared = Compared::kNothing;
        return true;
      case Mnemonic::kShl:
        if (!is_gpr(to, kIndex, 4) || insn.immediate_size != 1 || insn.immediate != 4 || reg(kIndex).kind != Kind::kJumpIndex) return false;
        set(kIndex, {.kind = Kind::kJumpByte, .id = reg(kIndex).id});
        out.next.compared = Compared::kNothing;
        return true;
      case Mnemonic::kAnd:
        if (!is_gpr(to, kIndex, 4) || insn.immediate_size != 1 || (insn.immediate != 31 && insn.immediate != 63) || !reg(kIndex).plain()) return false;
        set(kIndex, {.kind = Kind::kBit, .id = uint64_t{at} << 8 | kIndex, .amount = static_cast<uint32_t>(insn.immediate)});
        out.next.compared = Compared::kNothing;
        return true;
      case Mnemonic::kCmp:
        if (!is_gpr(to, kAddress, 8) || insn.immediate_size != 4 || reg(kAddress).kind != Kind::kTagged) return false;
        if (insn.immediate < 0 || insn.immediate > 4095) return false;
        out.next.compared = Compared::kTag;
        out.next.compared_id = reg(kAddress).id;
        out.next.room = 4096 - static_cast<uint32_t>(insn.immediate);
        return true;
      default: return false;
    }
  }

  // --- control flow

  bool branch() {
    if (insn.mnemonic == Mnemonic::kJcxz) return readable(kRcx);
    if (insn.mnemonic == Mnemonic::kJmp || insn.mnemonic == Mnemonic::kJcc) {
      if (insn.operands[0].kind != OperandKind::kRelative) return broken(Rule::kForbidden);
      if (rules.site(at + insn.length - 4) && !guest_registers_clean()) return false;
      if (insn.mnemonic == Mnemonic::kJmp) return true;
      const unsigned condition = insn.opcode & 15;
      const Value& r11 = reg(kAddress);
      out.next.compared = Compared::kNothing;
      out.taken.compared = Compared::kNothing;
      if (condition == 7 && before.compared == Compared::kTag && r11.kind == Kind::kTagged && r11.id == before.compared_id)
        set(kAddress, {.kind = Kind::kHit, .rights = r11.rights, .id = r11.id, .amount = before.room, .page = r11.page});
      if (r11.kind == Kind::kGroup) {
        if (condition != 4 || before.compared != Compared::kGroup) return broken(Rule::kStub);
        Value host = r11;
        host.kind = Kind::kHost;
        set(kAddress, host);
        out.taken.reg[kAddress] = {};
      }
      if (condition == 5 && before.compared == Compared::kJump) out.next.compared = Compared::kJumpEqual;
      return true;
    }
    return broken(Rule::kForbidden);
  }

  bool run() {
    out.next = out.taken = before;
    out.next.after_callout = out.taken.after_callout = false;
    if (!allowed_on_host(insn)) return broken(Rule::kForbidden);
    if (!prefixes()) return false;
    if (insn.mnemonic == Mnemonic::kUd2) return before.after_callout || broken(Rule::kForbidden);
    const Operand* mem = insn.memory_operand();
    if (insn.map == OpcodeMap::k0F && insn.opcode == 0x1f && insn.encoding == Encoding::kLegacy) return true;  // touches nothing
    if (insn.segment_prefix == kGS) {
      if (!mem) return broken(Rule::kPrefix);
      if (!vcpu_memory(*mem)) return false;
      const bool checked = insn.mnemonic == Mnemonic::kCmp && insn.base != kNoRegister;
      if (!checked && (insn.flags_written | insn.flags_maybe) & kStatusFlags) out.next.compared = Compared::kNothing;
      return true;
    }
    if (insn.mnemonic == Mnemonic::kLea) return lea();
    if (insn.form == Form::kBranch) return branch();
    // The bit has to lie in the operand: other offsets reach anywhere.
    if (bit_string(insn)) {
      const Operand& offset = insn.operands[1];
      if (insn.operand_size < 4 || !is_gpr(offset, kIndex, insn.operand_size) || reg(kIndex).kind != Kind::kBit || reg(kIndex).amount != insn.operand_size * 8u - 1)
        return broken(Rule::kForbidden);
    } else if (insn.form != Form::kPlain && !(insn.form == Form::kSpecial && masked(insn))) {
      return broken(Rule::kForbidden);
    }
    if (check_step()) return true;
    if (mem && !guest_memory(*mem)) return false;
    if (stores_to_rdi(insn) && !access(kRdi, 0, insn.mnemonic == Mnemonic::kMaskmovq ? 8 : 16, true, true)) return false;
    for (unsigned i = 0; i < insn.operand_count; i++) {
      const OperandKind k = insn.operands[i].kind;
      if (k == OperandKind::kMoffs || k == OperandKind::kVectorMemory || (k == OperandKind::kString && !stores_to_rdi(insn)))
        return broken(Rule::kUnchecked);
      if (k == OperandKind::kSegment || k == OperandKind::kControl || k == OperandKind::kDebug || k == OperandKind::kFar)
        return broken(Rule::kForbidden);
    }
    if (!operands()) return false;
    if (may_trap(insn) && !has_side_entry()) return broken(Rule::kSideTable);
    if ((insn.flags_written | insn.flags_maybe) & kStatusFlags) out.next.compared = Compared::kNothing;
    return true;
  }
};

std::expected<StepResult, Rule> BlockRules::step(const Insn& insn, uint32_t at, const MachineState& before) const {
  Step s{*this, insn, at, before, {}, {}};
  if (!s.run()) return std::unexpected(s.rule);
  return std::move(s.out);
}

}  // namespace vireo::softkvm
