// SPDX-License-Identifier: Apache-2.0
// FAST: a block is made while the guest's SIMD state is live (make_block.cpp).
#include "softkvm/translate/memory_checks.h"

#include "softkvm/translate/engine.h"
#include "softkvm/translate/masked_alignment.h"
#include "softkvm/translate/switches.h"

namespace vireo::softkvm {
namespace {

uint32_t tlb_at(unsigned view, size_t array) {
  return static_cast<uint32_t>(ENGINE + offsetof(Engine, tlb) + view * sizeof(TlbView) + array);
}
uint32_t recent_at(unsigned view, bool write, unsigned key) {
  return static_cast<uint32_t>(ENGINE + offsetof(Engine, recent) + ((view * 2 + write) * kRecentKeys + key) * sizeof(RecentPage));
}

bool sha(const Insn& insn) {
  switch (insn.mnemonic) {
    case Mnemonic::kSha1msg1:
    case Mnemonic::kSha1msg2:
    case Mnemonic::kSha1nexte:
    case Mnemonic::kSha1rnds4:
    case Mnemonic::kSha256msg1:
    case Mnemonic::kSha256msg2:
    case Mnemonic::kSha256rnds2: return true;
    default: return false;
  }
}

// kAccessAligned where a misaligned memory operand gives #GP(0): Intel SDM vol 1, 10.4.1.1 and 14.9; vol 2, 2.6. Not of instructions that compute on it
// where MXCSR.MM is set; AMD's CPUs take the SHA instructions' anywhere.
uint32_t needs_alignment(const Insn& insn, bool amd) {
  const Operand* mem = insn.memory_operand();
  if (!mem || mem->size < 16) return 0;
  switch (insn.mnemonic) {
    case Mnemonic::kCmpxchg16b:
    case Mnemonic::kMovaps:
    case Mnemonic::kMovapd:
    case Mnemonic::kMovdqa:
    case Mnemonic::kMovntps:
    case Mnemonic::kMovntpd:
    case Mnemonic::kMovntdq:
    case Mnemonic::kMovntdqa:
    case Mnemonic::kVmovaps:
    case Mnemonic::kVmovapd:
    case Mnemonic::kVmovdqa:
    case Mnemonic::kVmovdqa32:
    case Mnemonic::kVmovdqa64:
    case Mnemonic::kVmovntps:
    case Mnemonic::kVmovntpd:
    case Mnemonic::kVmovntdq:
    case Mnemonic::kVmovntdqa: return kAccessAligned;
    case Mnemonic::kMovups:
    case Mnemonic::kMovupd:
    case Mnemonic::kMovdqu:
    case Mnemonic::kLddqu:
    case Mnemonic::kPcmpestri:
    case Mnemonic::kPcmpestrm:
    case Mnemonic::kPcmpistri:
    case Mnemonic::kPcmpistrm: return 0;
    default: break;
  }
  if (insn.encoding != Encoding::kLegacy || mem->size != 16 || (amd && sha(insn))) return 0;
  for (unsigned i = 0; i < insn.operand_count; i++)
    if (insn.operands[i].kind == OperandKind::kVector || insn.operands[i].kind == OperandKind::kMmx) return kAccessAlignedUnlessMm;
  return 0;
}

// Does an x87 exception that is open make it #MF? Intel SDM vol 1, 8.6: all but the no-wait forms; MMX instructions too.
bool waits_for_x87(const Insn& insn) {
  if (insn.encoding != Encoding::kLegacy) return false;
  if (insn.map == OpcodeMap::kOneByte && insn.opcode >= 0xd8 && insn.opcode <= 0xdf)
    return insn.mnemonic != Mnemonic::kFnstsw && insn.mnemonic != Mnemonic::kFnstcw;
  if (insn.map == OpcodeMap::kOneByte) return false;
  for (unsigned i = 0; i < insn.operand_count; i++)
    if (insn.operands[i].kind == OperandKind::kMmx) return true;
  return false;
}

// Exception types 11 and E11 of Intel's manual: the half-precision conversions of F16C give no #AC (SDM vol 2, 2.4). AMD's do.
bool never_ac(const Insn& insn) { return insn.mnemonic == Mnemonic::kVcvtph2ps || insn.mnemonic == Mnemonic::kVcvtps2ph; }

bool locked(const Insn& insn) { return insn.lock || (insn.mnemonic == Mnemonic::kXchg && insn.memory_operand()); }

}  // namespace

MemoryChecks::MemoryChecks(const VcpuState& vcpu, uint32_t mode, Emitter& out)
    : vcpu_(vcpu), mode_(mode), off_(vcpu.vm->off), view_(view_of(mode)), long_((mode & kModeCodeMask) == kModeCode64), out_(out) {}

bool MemoryChecks::by_tlb(unsigned segment) const {
  return !(mode_ & kModeStep) && !(off_ & kSwitchInlineTlb) && mode_ & kModeFlatData && (long_ || segment == kDS || segment == kES || segment == kSS);
}

unsigned MemoryChecks::recent_key(const Insn& insn) {
  if (insn.segment == kFS) return kRecentFs;
  if (insn.segment == kGS) return kRecentGs;
  if (insn.rip_relative) return kRecentRip;
  return insn.base != kNoRegister ? insn.base : kRecentNoBase;
}

// The stack's registers mostly stay on a page; others go from one object to the next, where the comparison costs more than it saves
// (measured: with all of them gcc and Python ran half as fast again).
bool MemoryChecks::stays_on_a_page(unsigned key) const { return (key == kRsp || key == kRbp) && !(off_ & kSwitchRecentPages); }

uint32_t MemoryChecks::descriptor_of(const MemoryAccess& access, const Insn& insn, unsigned at, bool masked) const {
  const bool amd = vcpu_.vendor_is_amd;
  const uint32_t descriptor =
      access_descriptor(at & 0xfff, access.size, access.read, access.write, access.segment) | (waits_for_x87(insn) ? kAccessX87 : 0);
  if (masked) return descriptor | kAccessMasked | masked_alignment(insn, amd) << kAccessMaskedAlignmentShift;
  return descriptor | (access.size < 16 ? 0 : needs_alignment(insn, amd)) | (never_ac(insn) && !amd ? kAccessNoAc : 0) | (locked(insn) ? kAccessLocked : 0);
}

void MemoryChecks::translate(const MemoryAccess& access, const Insn& insn, unsigned at, bool masked) {
  const uint32_t descriptor = descriptor_of(access, insn, at, masked);
  if (!by_tlb(access.segment)) {
    out_.move_imm(kScratch1, descriptor);
    out_.call_stub(STUB_ACCESS);
    return;
  }
  Miss& miss = misses_[miss_count_++];
  compare(access.key, access.size, access.write, miss);
  miss.kind = stays_on_a_page(access.key) ? Miss::kRecent : Miss::kIndexed;
  miss.descriptor = descriptor;
  if (miss.kind == Miss::kRecent) miss.descriptor |= static_cast<uint64_t>(recent_at(view_, access.write, access.key)) << 32;
}

void MemoryChecks::translate_group(const MemoryAccess& first, const Insn& insn, unsigned at, unsigned span, unsigned delta, bool write, FlagsIn flags) {
  Miss& miss = misses_[miss_count_++];
  compare(first.key, span, write, miss);
  const bool recent = stays_on_a_page(first.key);
  miss.kind = recent ? Miss::kRecentGroup : Miss::kGroup;
  miss.flags = flags;
  const uint32_t group = span | delta << kGroupDeltaShift | (recent ? first.key : kNoRecent) << kGroupRecentShift | (write ? kGroupWrite : 0);
  miss.descriptor = descriptor_of(first, insn, at, false) | static_cast<uint64_t>(group) << 32;
}

void MemoryChecks::compare(unsigned key, unsigned bytes, bool write, Miss& miss) {
  const bool recent = stays_on_a_page(key);
  const uint32_t page = recent_at(view_, write, key);
  if (recent) {
    out_.gs(0x33, kScratch0, page + offsetof(RecentPage, tag));       // xor r11, tag
  } else {
    if (off_ & kSwitchRorx) {
      out_.move(kScratch1, kScratch0);
      out_.bytes({0x49, 0xc1, 0xea, 12});                             // shr r10, 12
    } else {
      out_.bytes({0xc4, 0x43, 0xfb, 0xf0, 0xd3, 12});                 // rorx r10, r11, 12
    }
    out_.bytes({0x45, 0x0f, 0xb7, 0xd2});                             // movzx r10d, r10w
    out_.gs_indexed(0x33, kScratch0, kScratch1, tlb_at(view_, write ? offsetof(TlbView, write) : offsetof(TlbView, read)));  // xor r11, tag
  }
  out_.bytes({0x49, 0x81, 0xfb});                                     // cmp r11, 4096 - bytes
  out_.u32(4096 - bytes);
  miss.from = out_.jcc(7);                                            // ja
  if (recent) out_.gs(0x03, kScratch0, page + offsetof(RecentPage, addend));  // add r11, host page
  else out_.gs_indexed(0x03, kScratch0, kScratch1, tlb_at(view_, offsetof(TlbView, addend)));
  miss.back = out_.here();
}

void MemoryChecks::emit_miss(const Miss& miss) {
  out_.resolve(miss.from, out_.here());
  out_.call_stub(miss.kind == Miss::kIndexed  ? STUB_MISS
                 : miss.kind == Miss::kRecent ? STUB_RECENT + 2 * view_ + (miss.descriptor & kAccessWrite ? 1 : 0)
                                              : STUB_GROUP);
  static_assert(ACCESS_WRITE == kAccessWrite);
  if (miss.kind == Miss::kIndexed) out_.move_imm(kScratch1, miss.descriptor);  // for the stub, which looks where it returns to
  else out_.move_imm64(kScratch1, miss.descriptor);
}

}  // namespace vireo::softkvm
