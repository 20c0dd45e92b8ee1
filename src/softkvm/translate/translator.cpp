// SPDX-License-Identifier: Apache-2.0
// FAST: a block is made while the guest's SIMD state is live (make_block.cpp).
#include "softkvm/translate/translator.h"

#include <algorithm>
#include <utility>

#include "softkvm/cpu/decoder.h"
#include "softkvm/cpu/feature.h"
#include "softkvm/cpu/feature_enabled.h"
#include "softkvm/translate/access_groups.h"
#include "softkvm/translate/emitter.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/memory_checks.h"
#include "softkvm/translate/reencode.h"
#include "softkvm/translate/switches.h"

namespace vireo::softkvm {
namespace {

// The last borrow slot carries values over a second access.
constexpr uint32_t kCarry = ENGINE_BORROW + 3 * 8;

// The host register that holds a guest's, or -1.
constexpr int8_t kHostOf[16] = {0, 1, 2, 3, kHostRsp, 5, 6, 7, 8, -1, -1, -1, 12, 13, 14, 15};
int host_of(unsigned guest) { return kHostOf[guest]; }

uint32_t group_at(int8_t slot) { return static_cast<uint32_t>(ENGINE + offsetof(Engine, group) + static_cast<size_t>(slot) * 8); }
uint32_t jump_at(unsigned view, size_t member) {
  return static_cast<uint32_t>(ENGINE + offsetof(Engine, jump) + view * sizeof(JumpEntry) * kJumpEntries + member);
}

CodeMode code_mode(uint32_t mode) {
  switch (mode & kModeCodeMask) {
    case kModeCode64: return CodeMode::k64;
    case kModeCode32: return CodeMode::k32;
    default: return CodeMode::k16;
  }
}

// What Intel's CPUs run and AMD's do not: PREFETCH and PREFETCHW of a register (APM vol 3, PREFETCHlevel; a NOP in SDM vol 2, table A-3), and the
// 64-bit forms of VPEXTRD and VPINSRD outside of 64-bit mode (APM vol 4, VPEXTRQ, VPINSRQ; W is ignored in SDM vol 2), but for EVEX's.
bool undefined_at_amd(const Insn& insn) {
  if (insn.encoding == Encoding::kLegacy) return insn.map == OpcodeMap::k0F && insn.opcode == 0x0d && insn.modrm >= 0xc0;
  return insn.encoding == Encoding::kVex && insn.mode != CodeMode::k64 && insn.w && (insn.mnemonic == Mnemonic::kVpextrd || insn.mnemonic == Mnemonic::kVpinsrd);
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

  size_t run() {
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

 private:
  // --- decoding and liveness

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
    const Operand* memory() const { return shape.memory < 0 ? nullptr : &insn.operands[static_cast<unsigned>(shape.memory)]; }
  };

  void decode_block() {
    start_ = source_.offset;
    unsigned at = start_;
    notes_.look_count = 1;
    const unsigned limit = step_ || source_.straddle || off_ & kSwitchLongBlocks ? 1 : kMaxBlockInsns;
    dependency_begin_ = start_;
    while (count_ < limit && at < 4096) {
      Decoded& d = insns_[count_];
      d.begin(at);
      DecodeStatus status = source_.straddle ? decode(source_.straddle, 15, code_mode_, d.insn, d.shape)
                                             : decode(source_.page.at(at), 4096 - at, code_mode_, d.insn, d.shape);
      if (status != DecodeStatus::kOk) note_look(at, at + kMaxInsnLength);
      if (status == DecodeStatus::kTruncated) {
        if (count_ == 0) d.bad = true, d.by_name = true, d.callout = Callout::kUndefined, d.insn.length = 1, count_++;
        break;  // the next block takes it as a straddling instruction
      }
      if (status != DecodeStatus::kOk) {
        d.by_name = d.bad = true;
        d.callout = status == DecodeStatus::kTooLong ? Callout::kGeneralProtection : Callout::kUndefined;
        d.insn.length = std::max<uint8_t>(d.insn.length, 1);
      } else if (d.insn.form == Form::kPlain && d.shape.traits == kEverywhere) [[likely]] {
        d.clobbers_r11 = d.shape.displaced > 1 && d.shape.memory < 0;  // uses_r11(), which most need not ask
        at += d.insn.length;
        count_++;
        continue;
      } else {
        classify(d);
      }
      d.clobbers_r11 = uses_r11(d);
      at += d.insn.length;
      count_++;
      if (ends_block(d)) break;
    }
    end_ = at;
    dependency_end_ = std::max(dependency_end_, at);
    notes_.looks[0] = {static_cast<uint16_t>(start_), static_cast<uint16_t>(end_ - start_)};
  }

  // What follows depends on bytes [from, to) of the page.
  void note_look(unsigned from, unsigned to) const {
    if (notes_.look_count >= kMostLooks || source_.straddle) {
      notes_.look_count = kMostLooks + 1;
      return;
    }
    notes_.looks[notes_.look_count++] = {static_cast<uint16_t>(from), static_cast<uint16_t>(std::min(to, 4096u) - from)};
  }

  // What the guest's mode makes of the encoding: run, #UD, #NM.
  void classify(Decoded& d) {
    const Insn& insn = d.insn;
    if (!(d.shape.traits & kEverywhere) && !permitted(d)) return;
    switch (insn.form) {
      case Form::kPlain: d.by_name = false; break;
      case Form::kSystem: d.by_name = !selector_read(insn), d.callout = Callout::kSystem; break;
      case Form::kString: d.by_name = true, d.callout = Callout::kString; break;
      case Form::kSpecial:
        // Masked loads and stores run as they are, on an address range that is only checked as a whole.
        d.masked = (insn.encoding != Encoding::kLegacy && d.memory()) || d.shape.traits & kIsMaskedMove;
        d.by_name = !d.masked && !bit_string(insn), d.callout = Callout::kSpecial;
        break;
      case Form::kStack:
      case Form::kBranch:
        d.callout = Callout::kSpecial;
        d.by_name = !emitted_inline(insn);
        break;
    }
  }

  // Is the instruction there for the guest, and usable in its mode? Else it is made a call-out for its exception.
  [[gnu::noinline]] bool permitted(Decoded& d) const {
    Insn& insn = d.insn;
    auto undefined = [&](Callout c) { return d.by_name = true, d.bad = true, d.callout = c, false; };
    if (insn.feature && !feature_enabled(vcpu_, static_cast<Feature>(insn.feature))) {
      // CPUs without them ignore the prefix that makes LZCNT of BSR and TZCNT of BSF.
      // ... and take CLDEMOTE for the hint NOP that its place in the map is.
      const bool hint = insn.mnemonic == Mnemonic::kCldemote;
      if (!hint && insn.mnemonic != Mnemonic::kLzcnt && insn.mnemonic != Mnemonic::kTzcnt) return undefined(Callout::kUndefined);
      if (!hint) insn.mandatory_prefix = false;
    }
    if (vcpu_.vendor_is_amd && undefined_at_amd(insn)) return undefined(Callout::kUndefined);
    if (insn.mnemonic == Mnemonic::kMovsxd && insn.operand_size == 2) {
      // Hosts differ in how much they read: it goes as MOV. Intel reads 16 bits (SDM vol 2, MOVSXD), AMD 32 (APM vol 3, MOVSXD).
      insn.opcode = 0x8b;
      if (vcpu_.vendor_is_amd && d.memory()) insn.operands[1].size = 4;
    }
    bool vector = false, mmx = false, mask = false;
    for (unsigned i = 0; i < insn.operand_count; i++) {
      vector |= insn.operands[i].kind == OperandKind::kVector;
      mmx |= insn.operands[i].kind == OperandKind::kMmx;
      mask |= insn.operands[i].kind == OperandKind::kMask;
    }
    const bool real = !(mode_ & kModeProtected) || mode_ & kModeVm86;
    if (insn.encoding == Encoding::kEvex || (insn.encoding == Encoding::kVex && mask)) {
      if (real || !(mode_ & kModeAvx512)) return undefined(Callout::kUndefined);
      if (mode_ & kModeTs) return undefined(Callout::kNoDevice);
    } else if (insn.encoding == Encoding::kVex) {
      if (real) return undefined(Callout::kUndefined);
      // VZEROUPPER, VZEROALL, VLDMXCSR and VSTMXCSR name no vector register.
      if (vector || (insn.map == OpcodeMap::k0F && (insn.opcode == 0x77 || insn.opcode == 0xae))) {
        if (!(mode_ & kModeAvx)) return undefined(Callout::kUndefined);
        if (mode_ & kModeTs) return undefined(Callout::kNoDevice);
      }
    } else if (insn.map == OpcodeMap::kOneByte && insn.opcode >= 0xd8 && insn.opcode <= 0xdf) {
      if (mode_ & (kModeTs | kModeEm)) return undefined(Callout::kNoDevice);
    } else if (insn.mnemonic == Mnemonic::kFwait) {
      if ((mode_ & (kModeTs | kModeMp)) == (kModeTs | kModeMp)) return undefined(Callout::kNoDevice);
    } else if (vector || mmx || insn.mnemonic == Mnemonic::kEmms || insn.mnemonic == Mnemonic::kLdmxcsr ||
               insn.mnemonic == Mnemonic::kStmxcsr) {
      if (mode_ & kModeEm) return undefined(Callout::kUndefined);
      if (!mmx && insn.mnemonic != Mnemonic::kEmms && !(mode_ & kModeSse)) return undefined(Callout::kUndefined);
      if (mode_ & kModeTs) return undefined(Callout::kNoDevice);
    }
    return true;
  }

  bool quick() const { return !step_ && !(off_ & kSwitchQuickStubs); }

  // BT and its kin on a string of bits in memory, where that is emitted.
  bool bit_string(const Insn& insn) const {
    switch (insn.mnemonic) {
      case Mnemonic::kBt:
      case Mnemonic::kBts:
      case Mnemonic::kBtr:
      case Mnemonic::kBtc: break;
      default: return false;
    }
    return insn.memory_operand() && insn.operands[1].kind == OperandKind::kGpr && insn.operand_size >= 4 && insn.address_size == 8 && checks_.by_tlb(insn.segment) &&
           !(off_ & kSwitchBitStrings);
  }

  // MOV of a segment register to a whole general register.
  bool selector_read(const Insn& insn) const {
    return quick() && insn.mnemonic == Mnemonic::kMov && insn.operands[0].kind == OperandKind::kGpr && insn.operands[0].size >= 4 &&
           insn.operands[1].kind == OperandKind::kSegment;
  }

  // The stub for an instruction that is run by name.
  unsigned stub_of(const Decoded& d) const {
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

  // Stack and branch instructions that are emitted; the others are run by name: with a 16-bit operand size, targets wrap at 64 KiB.
  bool emitted_inline(const Insn& insn) const {
    bool full = long_ ? insn.operand_size == 8 : insn.operand_size == 4;
    bool flat_code = mode_ & kModeFlatCode;
    switch (insn.mnemonic) {
      case Mnemonic::kPush: return inline_stack_ && full;
      case Mnemonic::kPop: return inline_stack_ && full && !insn.memory_operand();
      case Mnemonic::kLeave: return inline_stack_ && full;
      case Mnemonic::kPushf: return inline_stack_ && full && long_ && quick();
      case Mnemonic::kCall:
      case Mnemonic::kRet: return inline_stack_ && full && flat_code;
      case Mnemonic::kJmp:
        if (insn.operands[0].kind == OperandKind::kRelative) return full;
        return !step_ && !(off_ & kSwitchInlineStack) && full && flat_code && mode_ & kModeFlatData;
      case Mnemonic::kJcc: return full;
      case Mnemonic::kLoop:
      case Mnemonic::kLoope:
      case Mnemonic::kLoopne:
      case Mnemonic::kJcxz: return insn.address_size != 2 && full;
      default: return false;
    }
  }

  bool ends_block(const Decoded& d) const {
    if (d.bad) return true;
    const Insn& insn = d.insn;
    if (insn.form == Form::kPlain) return false;
    if (insn.form == Form::kBranch) {
      if (d.by_name) return true;
      return insn.mnemonic != Mnemonic::kJcc;
    }
    if (insn.form != Form::kSystem) return d.by_name && insn.mnemonic == Mnemonic::kPopf;
    if (!d.by_name) return false;
    switch (insn.mnemonic) {
      case Mnemonic::kSti: return !quick();
      case Mnemonic::kCli:
      case Mnemonic::kCld:
      case Mnemonic::kStd:
      case Mnemonic::kRdtsc:
      case Mnemonic::kPause:
      case Mnemonic::kRdmsr:
      case Mnemonic::kSwapgs:
      case Mnemonic::kSldt:
      case Mnemonic::kStr:
      case Mnemonic::kSgdt:
      case Mnemonic::kSidt:
      case Mnemonic::kRdrand:
      case Mnemonic::kRdseed:
      case Mnemonic::kRdtscp:
      case Mnemonic::kRdpid: return false;
      default: return true;
    }
  }

  // Is a page offset so near to the block's start that what stands there was copied and is watched?
  bool near_start(int64_t at, unsigned reach) const {
    const int64_t distance = at - static_cast<int64_t>(start_);
    return distance <= static_cast<int64_t>(reach) && distance >= -static_cast<int64_t>(reach);
  }

  // Which status flags code at a page offset may read before it writes them. Asked several times about each exit.
  uint32_t live_at(int64_t target) {
    if (target < 0 || target >= 4096 || source_.straddle || off_ & kSwitchDeadFlags) return kStatusFlags;
    if (!near_start(target, kDependencyReach - 128)) return kStatusFlags;
    const unsigned offset = static_cast<unsigned>(target);
    for (unsigned i = 0; i < known_count_; i++)
      if (known_[i].offset == offset) return known_[i].live;
    const uint32_t live = find_live_at(offset);
    if (known_count_ < std::size(known_)) known_[known_count_++] = {static_cast<uint16_t>(offset), static_cast<uint16_t>(live)};
    return live;
  }
  uint32_t find_live_at(unsigned at) {
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
  bool may_straddle(unsigned target) const {
    if (4096 - target >= kMaxInsnLength) return false;
    if (!near_start(target, kDependencyReach)) return true;
    note_look(target, 4096);
    return straddles(source_.page, target, code_mode_);
  }

  static int64_t target_of(const Decoded& d) { return static_cast<int64_t>(d.offset) + d.insn.length + d.insn.immediate; }

  void liveness() {
    uint32_t live = kStatusFlags;
    if (count_ && !ends_block(insns_[count_ - 1]) && !step_) live = live_at(end_);
    const uint32_t always = off_ & kSwitchDeadFlags ? kStatusFlags : 0;
    for (unsigned i = count_; i-- > 0;) {
      Decoded& d = insns_[i];
      if (d.insn.form == Form::kBranch && !d.by_name && !step_) {
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
  uint32_t live_in(unsigned i) const { return insns_[i].live_in; }

  // --- flags

  // Does the block first need the flags out of the host's register (a check or a call-out comes before what reads them)?
  bool wanted_in_slot() const {
    for (unsigned i = 0; i < count_; i++) {
      const Decoded& d = insns_[i];
      if (d.by_name) return true;
      if (d.insn.form == Form::kBranch) return d.insn.mnemonic == Mnemonic::kCall || d.insn.mnemonic == Mnemonic::kRet;
      if (d.insn.form == Form::kStack || (d.memory() && !(d.shape.traits & kIsLea))) return live_in(i);
      if ((d.insn.flags_read | d.insn.flags_written | d.insn.flags_maybe) & kStatusFlags) return false;
    }
    return false;
  }
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

  // --- pieces

  // What is emitted behind the block's end, and where the jump to it is.
  struct Later {
    enum Kind : uint8_t { kStub, kHostEntry, kPoll, kPollFlags, kLink, kRecord } kind;
    FlagsIn flags;
    bool ungrouped;       // kLink: to a block of kModeUngrouped
    uint32_t from;        // cache offset of the rel32
    uint32_t back;        // where to go on
    uint32_t a;           // the stub
    union {
      int64_t target;     // page offset
      const Decoded* decoded;
    };
  };
  Later& later(Later::Kind kind, uint32_t from) {
    Later& l = later_[later_count_++];
    l.kind = kind;
    l.from = from;
    return l;
  }

  void emit_later(const Later& l) {
    if (l.kind == Later::kRecord) {
      while (out_.here() % 8) out_.u8(0xcc);
    }
    if (l.kind != Later::kHostEntry) out_.resolve(l.from, out_.here());
    switch (l.kind) {
      case Later::kStub: out_.jump_stub(l.a); break;
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
        notes_.sites[notes_.site_count++] = {l.from, out_.here(), l.flags, l.ungrouped};
        out_.bytes({0x4c, 0x8d, 0x15});  // lea r10, [rip + the rel32]
        out_.u32(l.from - (out_.here() + 4));
        linear_of(l.target);
        out_.jump_stub(l.ungrouped ? STUB_LINK_UNGROUPED : l.flags == FlagsIn::kSlot ? STUB_LINK_SLOT : STUB_LINK);
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

  void poll_compare() {
    out_.bytes({0x65, 0x83, 0x3c, 0x25});  // cmp dword gs:[attention], 0
    out_.u32(VCPU_ATTENTION);
    out_.u8(0);
  }

  // r11 = linear address of a page offset (which may lie outside of the page).
  void linear_of(int64_t page_offset) {
    out_.load(kScratch0, VCPU_PAGE_BASE);
    out_.lea(kScratch0, kScratch0, 0xff, 1, static_cast<int32_t>(page_offset), long_);
  }

  // r11 = the memory operand's offset, less `before`; r10 is clobbered. With `linear`, FS and GS bases are added (64-bit mode), and the host's flags lost.
  void address(const Insn& insn, bool linear, unsigned before = 0) {
    effective_address(kScratch0, insn, insn.displacement - static_cast<int64_t>(before), insn.address_size == 8, kScratch0, kScratch1);
    if (insn.address_size == 2) out_.bytes({0x45, 0x0f, 0xb7, 0xdb});  // movzx r11d, r11w
    if (linear && long_ && insn.segment >= kFS) add_base(insn.segment);
  }
  // The scratch registers are for what is displaced, and `base` for page_base too.
  void effective_address(unsigned to, const Insn& insn, int64_t displacement, bool wide, unsigned base_scratch, unsigned index_scratch) {
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

  // --- leaving the block

  void indirect_exit() {  // r11 the linear address
    want_flags_in_slot();
    flags_.host = false;
    if (step_) return out_.jump_stub(STUB_STEP_DONE);
    if (off_ & kSwitchJumpCache) return out_.jump_stub(STUB_LOOKUP);
    out_.move(kScratch1, kScratch0);                         // jump_index()
    out_.bytes({0x49, 0xc1, 0xea, 16});                      // shr r10, 16
    out_.bytes({0x45, 0x31, 0xda});                          // xor r10d, r11d
    out_.bytes({0x45, 0x0f, 0xb7, 0xd2});                    // movzx r10d, r10w
    out_.bytes({0x41, 0xc1, 0xe2, 4});                       // shl r10d, 4
    auto gs_r10 = [this](std::initializer_list<uint8_t> opcode, unsigned reg, uint32_t at) {
      out_.bytes(opcode);
      out_.u8(0x82 | (reg & 7) << 3);  // [r10 + disp32]
      out_.u32(at);
    };
    gs_r10({0x65, 0x4d, 0x3b}, kScratch0, jump_at(view_, offsetof(JumpEntry, tag)));  // cmp r11, gs:[r10 + tag]
    later(Later::kStub, out_.jcc(5)).a = STUB_LOOKUP;
    gs_r10({0x65, 0x41, 0xff}, 4, jump_at(view_, offsetof(JumpEntry, code)));         // jmp gs:[r10 + code]
  }

  // May a jump to a page offset be patched to go straight to the block there?
  bool may_link(int64_t target) const {
    return !step_ && !(off_ & kSwitchLinks) && target >= 0 && target < 4096 && !source_.straddle && !may_straddle(static_cast<unsigned>(target));
  }

  // A direct exit to a page offset. `poll`: it may close a loop.
  void exit_to(int64_t target, bool poll) {
    if (!may_link(target)) {
      want_flags_in_slot();
      linear_of(target);
      return indirect_exit();
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
  void poll_beside_flags(int64_t target) {
    out_.move(kScratch1, kRcx);
    out_.bytes({0x65, 0x8b, 0x0c, 0x25});  // mov ecx, gs:[attention]
    out_.u32(VCPU_ATTENTION);
    out_.bytes({0xe3, 5});                 // jrcxz over the jump
    later(Later::kPollFlags, out_.jmp()).target = target;
    out_.move(kRcx, kScratch1);
  }

  void link_site(uint32_t at, int64_t target, FlagsIn flags) {
    Later& l = later(Later::kLink, at);
    l.target = target;
    l.flags = flags;
    l.ungrouped = false;
  }

  // --- groups of accesses

  // Does an instruction's memory operand go through memory()?
  static bool groupable(const Decoded& d) { return d.insn.form == Form::kPlain && d.insn.address_size == 8; }

  // Is r11 used for something else than the address of such an operand or of the stack?
  static bool uses_r11(const Decoded& d) {
    const Insn& insn = d.insn;
    if (d.by_name) return true;
    if (insn.form != Form::kPlain) {
      if (insn.form == Form::kStack || insn.form == Form::kBranch) return false;
      if (insn.form == Form::kSpecial) return true;
    }
    if (d.shape.traits & (kDoesNothing | kIsLea | kHasMoffs)) {
      if (d.shape.traits & kDoesNothing) return false;
      return d.shape.traits & kHasMoffs || !direct_lea(insn);
    }
    return d.shape.displaced > 1 && !d.memory();
  }

  void find_groups() {
    grouped_ = long_ && count_ > 1 && !source_.straddle && checks_.by_tlb(kDS) && !(mode_ & kModeUngrouped) &&
               !(off_ & (kSwitchGroupedChecks | kSwitchLinks));
    if (!grouped_) return;
    groups_.begin();
    for (unsigned i = 0; i < count_; i++) {
      const Decoded& d = insns_[i];
      if (d.by_name) {
        groups_.call_out();
        continue;
      }
      if (d.clobbers_r11) groups_.clobber();
      switch (d.insn.form) {
        case Form::kStack: group_stack(i, d); break;
        case Form::kBranch: group_branch(i, d); break;
        default:
          if (d.shape.traits & kDoesNothing) break;
          if (d.memory() && !(d.shape.traits & kIsLea)) {  // whose operand is no access
            const Operand& mem = *d.memory();
            if (groupable(d)) groups_.memory(i, d.insn, d.offset + d.insn.length, mem.size ? mem.size : 1, static_cast<unsigned>(mem.access) & 2);
            else groups_.alone(i, 0);
          }
          groups_.registers(d.insn, d.shape.written, d.offset + d.insn.length);
      }
    }
    groups_.end();
  }
  void group_stack(unsigned i, const Decoded& d) {
    const Operand& o = d.insn.operands[0];
    constexpr int kWord = 8;
    switch (d.insn.mnemonic) {
      case Mnemonic::kPush:
        if (o.kind == OperandKind::kMemory) group_memory(i, d);
        [[fallthrough]];
      case Mnemonic::kPushf:
        if (d.insn.mnemonic == Mnemonic::kPushf) groups_.clobber();
        groups_.stack(i, 1, kRsp, -kWord, kWord, true);
        return groups_.moved(kRsp, kRsp, -kWord);
      case Mnemonic::kPop:
        groups_.stack(i, 1, kRsp, 0, kWord, false);
        groups_.moved(kRsp, kRsp, kWord);
        return groups_.lost(o.reg);
      default:  // LEAVE
        groups_.stack(i, 1, kRbp, 0, kWord, false);
        groups_.moved(kRsp, kRbp, kWord);
        return groups_.lost(kRbp);
    }
  }
  void group_branch(unsigned i, const Decoded& d) {
    switch (d.insn.mnemonic) {
      case Mnemonic::kJcc: return groups_.jump_out();
      case Mnemonic::kCall:
      case Mnemonic::kJmp:
        if (d.insn.operands[0].kind == OperandKind::kMemory) group_memory(i, d);
        groups_.clobber();
        if (d.insn.mnemonic == Mnemonic::kCall) groups_.stack(i, 1, kRsp, -8, 8, true);
        return;
      case Mnemonic::kRet: return groups_.stack(i, 1, kRsp, 0, 8, false);
      default: return;
    }
  }
  // The memory operand of a stack instruction or of a branch.
  void group_memory(unsigned i, const Decoded& d) {
    if (d.insn.address_size == 8) groups_.memory(i, d.insn, d.offset + d.insn.length, 8, false);
    else groups_.alone(i, 0);
  }

  // --- instructions

  void emit(Decoded& d) {
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

  void call_out(Decoded& d) {
    want_flags_in_slot();
    flags_.host = false;
    out_.bytes({0x4c, 0x8d, 0x1d});  // lea r11, [rip + record]
    later(Later::kRecord, out_.here()).decoded = &d;
    out_.u32(0);
    out_.call_stub(stub_of(d));
    if (d.bad) ended_ = true, out_.bytes({0x0f, 0x0b});
    else if (d.insn.form == Form::kBranch) ended_ = true, out_.bytes({0x0f, 0x0b});  // those always leave with kJump
  }

  // The side entry for what may raise a host exception at the next emitted byte.
  void note_side(const Decoded& d, const SideEntry* borrowed = nullptr) {
    SideEntry& e = notes_.side[notes_.side_count++];
    e = borrowed ? *borrowed : SideEntry{};
    e.host = out_.here();
    e.guest = static_cast<uint16_t>(d.offset);
    e.host_flags = flags_.host && !flags_.slot;
  }

  // A constant for a displaced register, as the slot's: by MOV, or by XOR with itself where nobody reads the flags.
  bool constant_to_slot(const Decoded& d) {
    const Insn& insn = d.insn;
    const Operand& to = insn.operands[0];
    if (!insn.operand_count || to.kind != OperandKind::kGpr || to.size < 4 || !in_slot(to.reg) || insn.encoding != Encoding::kLegacy) return false;
    int64_t value = 0;
    if (insn.mnemonic == Mnemonic::kMov && insn.immediate_size) value = to.size == 4 ? insn.immediate & 0xffffffff : insn.immediate;
    else if (insn.mnemonic != Mnemonic::kXor || insn.operands[1].kind != OperandKind::kGpr || insn.operands[1].reg != to.reg || d.live_out) return false;
    if (value != static_cast<int32_t>(value)) return false;
    out_.gs(0xc7, 0, VCPU_GPR + to.reg * 8u);  // mov gs:[slot], imm32
    out_.u32(static_cast<uint32_t>(value));
    return true;
  }

  // The operand that is a displaced register and can be left in its slot, as the memory operand that the instruction has not: null if none. Not what is
  // written in part, since the rest has to become zero, or the next load of the whole would wait for both.
  static const Operand* left_in_slot(const Insn& insn, Rename& rename) {
    const RegisterInMemory can = register_in_memory(insn);
    if (!can.rm) return nullptr;
    const Operand *rm = nullptr, *reg = nullptr;
    for (unsigned i = 0; i < insn.operand_count; i++) {
      const Operand& o = insn.operands[i];
      if (o.kind != OperandKind::kGpr) continue;
      if (o.high) return nullptr;
      if (o.field == OperandField::kModrmRm) rm = &o;
      if (o.field == OperandField::kModrmReg) reg = &o;
    }
    if (!rm) return nullptr;
    if (reg && reg->reg == rm->reg && (static_cast<unsigned>(reg->access) & 1 || reg->size < 4)) return nullptr;
    auto fits = [](const Operand& o) { return in_slot(o.reg) && (!(static_cast<unsigned>(o.access) & 2) || o.size == 8); };
    const Operand* left = fits(*rm) ? rm : reg && can.reg && fits(*reg) ? reg : nullptr;
    if (!left) return nullptr;
    if (left == reg) rename.opcode = can.opcode;
    rename.slot = VCPU_GPR + left->reg * 8u;
    return left;
  }

  // A register of the guest's that the instruction does not touch, for use as a temporary.
  static int borrow(const InsnShape& shape, uint32_t& taken) {
    for (unsigned r : {15u, 14u, 13u, 12u, 3u, 5u, 7u, 6u, 8u, 2u, 1u}) {
      if ((taken | shape.named) >> r & 1) continue;
      taken |= 1u << r;
      return static_cast<int>(r);
    }
    __builtin_trap();
  }

  void plain(Decoded& d) {
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
  void copied(Decoded& d) {
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

  // r11 + what is returned: where the memory operand is in the host.
  int32_t operand_address(const Decoded& d, const Operand& mem) {
    bool read = static_cast<unsigned>(mem.access) & 1, write = static_cast<unsigned>(mem.access) & 2;
    if (!read && !write) read = true;  // clflush and its like: an address that has to be readable
    return memory(d.insn, mem.size ? mem.size : 1, read, write, live_in(index_));
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

  // An instruction with operands that the host has elsewhere, or that cannot stand beside a REX prefix.
  [[gnu::noinline]] void renamed(Decoded& d) {
    const Insn& insn = d.insn;
    const Operand* mem = d.memory();
    const bool high = d.shape.high;
    if (constant_to_slot(d)) return;

    Rename rename;
    uint32_t taken = 0;
    SideEntry borrowed{};
    unsigned borrows = 0;
    if (mem) {
      rename.displacement = operand_address(d, *mem);
      rename.memory = kScratch0;
    }

    // Displaced registers and their temporaries.
    struct Temp {
      int guest, host;
      bool read, write;
    } temps[6];
    unsigned temp_count = 0;
    const Operand* left = mem ? nullptr : left_in_slot(insn, rename);
    int free_scratch[2] = {static_cast<int>(kScratch1), mem ? -1 : static_cast<int>(kScratch0)};
    auto borrow_one = [&] {
      int r = borrow(d.shape, taken);
      out_.store(ENGINE_BORROW + borrows * 8, r);
      borrowed.borrowed |= 1u << borrows;
      borrowed.borrow_reg[borrows++] = static_cast<uint8_t>(r);
      return r;
    };
    for (unsigned i = 0; i < insn.operand_count; i++) {
      const Operand& o = insn.operands[i];
      if (o.kind != OperandKind::kGpr || o.field == OperandField::kImplicit || o.field == OperandField::kNone || &o == left) continue;
      int host = o.high ? static_cast<int>(o.reg) + 4 : host_of(o.reg);  // AH..BH are encoded 4-7
      if (host >= 8 && high) {
        // MOVZX, MOVSX, CRC32 of rSP and AH to BH: no REX prefix, so a low register stands in for the one that holds rSP.
        taken |= 0xff00;
        temps[temp_count++] = {o.reg, host = borrow_one(), true, true};
      } else if (host < 0) {
        bool read = static_cast<unsigned>(o.access) & 1 || o.size < 4, write = static_cast<unsigned>(o.access) & 2;
        Temp* t = nullptr;
        for (unsigned k = 0; k < temp_count; k++)
          if (temps[k].guest == o.reg) t = &temps[k];
        if (!t) {
          int h = free_scratch[0] >= 0 ? std::exchange(free_scratch[0], -1)
                  : free_scratch[1] >= 0 ? std::exchange(free_scratch[1], -1)
                                         : borrow_one();
          t = &temps[temp_count++];
          *t = {o.reg, h, false, false};
        }
        t->read |= read;
        t->write |= write;
        host = t->host;
      }
      switch (o.field) {
        case OperandField::kModrmReg: rename.reg = host; break;
        case OperandField::kModrmRm: (rename.opcode < 0 ? rename.rm : rename.reg) = host; break;
        case OperandField::kVvvv: rename.vvvv = host; break;
        case OperandField::kOpcodeLow3: rename.low3 = host; break;
        default: break;
      }
    }
    if (mem && high) {
      // AH to BH cannot stand beside a REX prefix: the address goes to a low register.
      int r = 0;
      for (unsigned c : {7u, 6u}) if (!(taken >> c & 1)) r = static_cast<int>(c);
      out_.store(ENGINE_BORROW + borrows * 8, r);
      borrowed.borrowed |= 1u << borrows;
      borrowed.borrow_reg[borrows++] = static_cast<uint8_t>(r);
      out_.move(r, kScratch0);
      rename.memory = r;
    }

    flags_for(d);  // needs r10: before the temporaries are loaded
    for (unsigned k = 0; k < temp_count; k++)
      if (temps[k].guest == kRsp) out_.move(temps[k].host, kHostRsp);
      else if (temps[k].read) out_.load_gpr(temps[k].host, temps[k].guest);
    note_side(d, &borrowed);
    reencode(out_, insn, rename);
    for (unsigned k = 0; k < temp_count; k++)
      if (temps[k].guest == kRsp) out_.move(kHostRsp, temps[k].host);
      else if (temps[k].write) out_.store_gpr(temps[k].guest, temps[k].host);
    for (unsigned k = 0; k < borrows; k++) out_.load(borrowed.borrow_reg[k], ENGINE_BORROW + k * 8);
    flags_behind(insn);
  }

  // LEA that leaves r11 as it is.
  static bool direct_lea(const Insn& insn) { return insn.operands[0].size >= 4 && insn.address_size >= 4 && !(in_slot(insn.base) && in_slot(insn.index)); }
  static bool in_slot(unsigned guest) { return guest != kNoRegister && host_of(guest) < 0; }

  void lea(Decoded& d) {
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

  void selector(Decoded& d) {
    const unsigned guest = d.insn.operands[0].reg;
    int host = host_of(guest);
    const int to = host < 0 ? static_cast<int>(kScratch1) : host;
    // movzx to, word gs:[selector]
    out_.bytes({0x65, static_cast<uint8_t>(0x40 | (to >> 3 & 1) << 2), 0x0f, 0xb7, static_cast<uint8_t>(0x04 | (to & 7) << 3), 0x25});
    out_.u32(VCPU_SELECTOR + SEGMENT_SIZE * d.insn.operands[1].reg);
    if (host < 0) out_.store_gpr(guest, kScratch1);
  }

  // MASKMOVQ and MASKMOVDQU with the host address in the host's rDI.
  void masked_store(Decoded& d) {
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
  void bit_in_memory(Decoded& d) {
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

  void move_offset(Decoded& d) {
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

  // --- stack

  unsigned stack_size() const { return long_ ? 8 : 4; }

  // r11 and what is returned make the host address of a word of the stack's: the new top after pushing, that of `reg` else.
  int32_t push_address(uint32_t live) {
    return reach(1, {kRsp, stack_size(), false, true, kSS}, live, [&](unsigned before) {
      out_.lea(kScratch0, kHostRsp, 0xff, 1, -static_cast<int32_t>(stack_size() + before), long_);
    });
  }
  int32_t top_address(unsigned reg, uint32_t live) {
    return reach(1, {reg, stack_size(), true, false, kSS}, live, [&](unsigned before) {
      out_.lea(kScratch0, static_cast<unsigned>(host_of(reg)), 0xff, 1, -static_cast<int32_t>(before), long_);
    });
  }
  void move_rsp(int32_t by) { out_.lea(kHostRsp, kHostRsp, 0xff, 1, by, long_); }
  void store_top(unsigned reg, int32_t at) { out_.memory_form(0x89, reg, kScratch0, 0xff, 1, at, long_); }
  void load_top(unsigned reg, int32_t at) { out_.memory_form(0x8b, reg, kScratch0, 0xff, 1, at, long_); }

  void stack(Decoded& d) {
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
  void put(unsigned guest, unsigned host) {
    int to = host_of(guest);
    if (to < 0) out_.store_gpr(guest, host);
    else out_.move(to, host);
  }

  // --- near branches

  void branch(Decoded& d) {
    const Insn& insn = d.insn;
    uint32_t live = live_in(index_);
    int64_t next = static_cast<int64_t>(d.offset) + insn.length;
    int64_t target = insn.operand_count && insn.operands[0].kind == OperandKind::kRelative ? target_of(d) : 0;
    bool relative = insn.operand_count && insn.operands[0].kind == OperandKind::kRelative;
    auto backward = [&](int64_t t) { return t <= d.offset; };
    int32_t at;
    switch (insn.mnemonic) {
      case Mnemonic::kJcc: {
        want_flags_in_host();
        unsigned condition = insn.opcode & 15;
        const bool in_page = may_link(target);
        if (in_page && !backward(target)) {
          if (live_at(target) && off_ & kSwitchHostFlags) want_flags_in_slot();
          // live_at(target) is part of live_out, so the flags are where the target wants them.
          link_site(out_.patchable_jcc(condition), target, flags_in(live_at(target)));
        } else {
          uint32_t over = out_.jcc(condition ^ 1);
          Flags before = flags_;
          exit_to(target, in_page);
          flags_ = before;
          out_.resolve(over, out_.here());
        }
        if (step_) exit_to(next, false), ended_ = true;
        return;
      }
      case Mnemonic::kLoop:
      case Mnemonic::kLoope:
      case Mnemonic::kLoopne:
      case Mnemonic::kJcxz: {
        bool jcxz = insn.mnemonic == Mnemonic::kJcxz;
        want_flags_in_host();
        bool wide = insn.address_size == 8;
        if (!jcxz) out_.lea(kRcx, kRcx, 0xff, 1, -1, wide);
        // jrcxz/jecxz over a rel32 jump
        auto if_zero = [&](unsigned skip) {
          if (!wide) out_.u8(0x67);
          out_.bytes({0xe3, static_cast<uint8_t>(skip)});
        };
        uint32_t out1 = 0, out2 = 0;
        if (jcxz) {
          if_zero(5);
          out1 = out_.jmp();
        } else {
          if_zero(2);
          out_.bytes({0xeb, 5});  // not zero: over the jump out
          out1 = out_.jmp();
          if (insn.mnemonic != Mnemonic::kLoop) out2 = out_.jcc(insn.mnemonic == Mnemonic::kLoope ? 5 : 4);
        }
        Flags before = flags_;
        exit_to(target, backward(target));
        flags_ = before;
        out_.resolve(out1, out_.here());
        if (out2) out_.resolve(out2, out_.here());
        exit_to(next, false);
        ended_ = true;
        return;
      }
      case Mnemonic::kJmp:
        if (relative) {
          exit_to(target, backward(target));
        } else {
          near_target(d, live);
          indirect_exit();
        }
        break;
      case Mnemonic::kCall:
        if (!relative) {
          near_target(d, live);
          out_.store(kCarry, kScratch0);
        }
        want_flags_in_slot();
        at = push_address(kStatusFlags);
        out_.load(kScratch1, VCPU_PAGE_BASE);
        out_.lea(kScratch1, kScratch1, 0xff, 1, static_cast<int32_t>(next), long_);
        note_side(d);
        store_top(kScratch1, at);
        move_rsp(-static_cast<int32_t>(stack_size()));
        if (relative) {
          exit_to(target, backward(target));
        } else {
          out_.load(kScratch0, kCarry);
          indirect_exit();
        }
        break;
      default: {  // RET
        want_flags_in_slot();
        at = top_address(kRsp, live);
        note_side(d);
        load_top(kScratch0, at);
        move_rsp(static_cast<int32_t>(stack_size() + (insn.immediate_size ? insn.immediate & 0xffff : 0)));
        indirect_exit();
      }
    }
    ended_ = true;
  }

  // r11 = the target of an indirect near branch.
  void near_target(Decoded& d, uint32_t live) {
    const Operand& o = d.insn.operands[0];
    if (o.kind == OperandKind::kMemory) {
      const int32_t at = memory(d.insn, stack_size(), true, false, live);
      note_side(d);
      load_top(kScratch0, at);
      in_r11_ = -1;
      return;
    }
    in_r11_ = -1;
    int host = host_of(o.reg);
    if (host < 0) out_.load_gpr(kScratch0, o.reg);
    else out_.lea(kScratch0, static_cast<unsigned>(host), 0xff, 1, 0, long_);
    if (host < 0 && !long_) out_.bytes({0x45, 0x89, 0xdb});
  }

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
  union Insns {
    Insns() {}
    Decoded at[kMaxBlockInsns];
  } decoded_;
  Decoded (&insns_)[kMaxBlockInsns] = decoded_.at;
  Decoded* current_ = nullptr;
  unsigned count_ = 0, index_ = 0, start_ = 0, end_ = 0;
  unsigned dependency_begin_ = 0, dependency_end_ = 0;
  Flags flags_;
  bool grouped_ = false;  // accesses may share their checks
  int in_r11_ = -1;       // the group whose host address r11 is, or -1
  AccessGroups groups_;
};

}  // namespace

size_t translate(const VcpuState& vcpu, const Source& source, uint8_t* out, uint32_t offset, Block& block, BlockNotes& notes) {
  Translation t(vcpu, source, out, offset, block, notes);
  return t.run();
}

bool straddles(PageCopy& page, unsigned offset, CodeMode mode) {
  Insn insn;
  return 4096 - offset < kMaxInsnLength && decode(page.at(offset), 4096 - offset, mode, insn) == DecodeStatus::kTruncated;
}

}  // namespace vireo::softkvm
