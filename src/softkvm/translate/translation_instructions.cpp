// SPDX-License-Identifier: Apache-2.0
// Which instructions a block has, and which of them are run by name. FAST.
#include "softkvm/translate/translation.h"

#include "softkvm/cpu/decoder.h"
#include "softkvm/cpu/feature.h"
#include "softkvm/cpu/feature_enabled.h"

namespace vireo::softkvm {
namespace {

// What Intel's CPUs run and AMD's do not: PREFETCH and PREFETCHW of a register (APM vol 3, PREFETCHlevel; a NOP in SDM vol 2, table A-3), and the
// 64-bit forms of VPEXTRD and VPINSRD outside of 64-bit mode (APM vol 4, VPEXTRQ, VPINSRQ; W is ignored in SDM vol 2), but for EVEX's.
bool undefined_at_amd(const Insn& insn) {
  if (insn.encoding == Encoding::kLegacy) return insn.map == OpcodeMap::k0F && insn.opcode == 0x0d && insn.modrm >= 0xc0;
  return insn.encoding == Encoding::kVex && insn.mode != CodeMode::k64 && insn.w && (insn.mnemonic == Mnemonic::kVpextrd || insn.mnemonic == Mnemonic::kVpinsrd);
}

}  // namespace

void Translation::decode_block() {
  start_ = source_.offset;
  unsigned at = start_;
  notes_.look_count = 1;
  const unsigned limit = step_ || source_.straddle || mode_ & kModeCodeEnds || off_ & kSwitchLongBlocks ? 1 : kMaxBlockInsns;
  dependency_begin_ = start_;
  while (count_ < limit && at < 4096) {
    Decoded& d = insns_[count_];
    d.begin(at);
    DecodeStatus status = source_.straddle ? decode(source_.straddle, 15, code_mode_, d.insn, d.shape)
                                           : decode(source_.page.at(at), 4096 - at, code_mode_, d.insn, d.shape);
    if (status != DecodeStatus::kOk) note_look(at, at + kMaxInsnLength);
    if (status == DecodeStatus::kTruncated) {
      if (count_ == 0) d.none(Callout::kUndefined), count_++;
      break;  // the next block takes it as a straddling instruction
    }
    if (status != DecodeStatus::kOk) {
      d.none(status == DecodeStatus::kTooLong ? Callout::kGeneralProtection : Callout::kUndefined);
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

// What the guest's mode makes of the encoding: run, #UD, #NM.
void Translation::classify(Decoded& d) {
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
      d.by_name = !emitted_inline(d);
      break;
  }
}

// Is the instruction there for the guest, and usable in its mode? Else it is made a call-out for its exception.
bool Translation::permitted(Decoded& d) const {
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
    if ((vector || (!mmx && insn.mnemonic != Mnemonic::kEmms)) && !(mode_ & kModeSse)) return undefined(Callout::kUndefined);
    if (mode_ & kModeTs) return undefined(Callout::kNoDevice);
  }
  return true;
}

// BT and its kin on a string of bits in memory, where that is emitted.
bool Translation::bit_string(const Insn& insn) const {
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
bool Translation::selector_read(const Insn& insn) const {
  return quick() && insn.mnemonic == Mnemonic::kMov && insn.operands[0].kind == OperandKind::kGpr && insn.operands[0].size >= 4 &&
         insn.operands[1].kind == OperandKind::kSegment;
}

// Stack and branch instructions that are emitted; the others are run by name: with a 16-bit operand size, targets wrap at 64 KiB. In step mode all are, since
// a branch that may not go where it leads has not been done. LOOP has counted when the lookup refuses it, so it only goes where none is.
bool Translation::emitted_inline(const Decoded& d) const {
  const Insn& insn = d.insn;
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
      if (insn.operands[0].kind == OperandKind::kRelative) return full && !step_;
      return !step_ && !(off_ & kSwitchInlineStack) && full && flat_code && mode_ & kModeFlatData;
    case Mnemonic::kJcc: return full && !step_;
    case Mnemonic::kLoop:
    case Mnemonic::kLoope:
    case Mnemonic::kLoopne: return insn.address_size != 2 && full && may_link(target_of(d));
    case Mnemonic::kJcxz: return insn.address_size != 2 && full && !step_;
    default: return false;
  }
}

bool Translation::ends_block(const Decoded& d) const {
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

// Is r11 used for something else than the address of such an operand or of the stack?
bool Translation::uses_r11(const Decoded& d) {
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

}  // namespace vireo::softkvm
