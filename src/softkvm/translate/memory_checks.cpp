// SPDX-License-Identifier: Apache-2.0
// FAST: a block is made while the guest's SIMD state is live (make_block.cpp).
#include "softkvm/translate/memory_checks.h"

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

// In words of eight bytes.
template <unsigned size>
[[gnu::always_inline]] inline void copy(uint8_t* to, const uint8_t* from) {
#pragma GCC unroll 8
  for (unsigned i = 0; i < size; i += 8) __builtin_memcpy(to + i, from + i, 8);
}

bool locked(const Insn& insn) { return insn.lock || (insn.mnemonic == Mnemonic::kXchg && insn.memory_operand()); }

}  // namespace

MemoryChecks::MemoryChecks(const VcpuState& vcpu, uint32_t mode, Emitter& out)
    : vcpu_(vcpu), off_(vcpu.vm->off), view_(view_of(mode)), recent_(!(off_ & kSwitchRecentPages)),
      by_tlb_(static_cast<uint8_t>(mode & kModeStep || off_ & kSwitchInlineTlb || !(mode & kModeFlatData) ? 0
                                   : (mode & kModeCodeMask) == kModeCode64                                ? 0x3f
                                                                            : 1u << kDS | 1u << kES | 1u << kSS)),
      out_(out) {}

uint32_t MemoryChecks::descriptor_of(const MemoryAccess& access, const Insn& insn, unsigned at, bool masked) const {
  const uint32_t plain = access_descriptor(at & 0xfff, access.size, access.read, access.write, access.segment);
  if (!insn.feature) return plain | (locked(insn) ? kAccessLocked : 0);  // nothing of x87 or vectors (decode_tables.cpp asserts it)
  const bool amd = vcpu_.vendor_is_amd;
  const uint32_t descriptor = plain | (waits_for_x87(insn) ? kAccessX87 : 0);
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
  // What differs is written into a copy of the sequence.
  uint8_t* const p = out_.at();
  auto put = [p](unsigned at, uint32_t value) { __builtin_memcpy(p + at, &value, 4); };
  if (stays_on_a_page(key)) {
    static constexpr uint8_t kRecent[32] = {
        0x65, 0x4c, 0x33, 0x1c, 0x25, 0, 0, 0, 0,  // xor r11, gs:[tag]
        0x49, 0x81, 0xfb, 0, 0, 0, 0,              // cmp r11, 4096 - bytes
        0x0f, 0x87, 0, 0, 0, 0,                    // ja
        0x65, 0x4c, 0x03, 0x1c, 0x25, 0, 0, 0, 0,  // add r11, gs:[host page]
    };
    const uint32_t page = recent_at(view_, write, key);
    copy<sizeof kRecent>(p, kRecent);
    put(5, page + offsetof(RecentPage, tag));
    put(12, 4096 - bytes);
    put(27, page + offsetof(RecentPage, addend));
    miss.from = out_.here() + 18;
    out_.go_to(p + 31);
  } else {
    static constexpr uint8_t kIndexed[48] = {
        0xc4, 0x43, 0xfb, 0xf0, 0xd3, 12,          // rorx r10, r11, 12
        0x45, 0x0f, 0xb7, 0xd2,                    // movzx r10d, r10w
        0x65, 0x4e, 0x33, 0x1c, 0xd5, 0, 0, 0, 0,  // xor r11, gs:[r10 * 8 + tags]
        0x49, 0x81, 0xfb, 0, 0, 0, 0,              // cmp r11, 4096 - bytes
        0x0f, 0x87, 0, 0, 0, 0,                    // ja
        0x65, 0x4e, 0x03, 0x1c, 0xd5, 0, 0, 0, 0,  // add r11, gs:[r10 * 8 + host pages]
    };
    static constexpr uint8_t kShift[8] = {0x4d, 0x89, 0xda, 0x49, 0xc1, 0xea, 12};  // mov r10, r11; shr r10, 12: a byte longer than RORX
    unsigned longer = 0;
    if (off_ & kSwitchRorx) [[unlikely]] {
      copy<sizeof kShift>(p, kShift);
      longer = 1;
    } else {
      copy<8>(p, kIndexed);
    }
    copy<40>(p + longer + 6, kIndexed + 6);
    put(longer + 15, tlb_at(view_, write ? offsetof(TlbView, write) : offsetof(TlbView, read)));
    put(longer + 22, 4096 - bytes);
    put(longer + 37, tlb_at(view_, offsetof(TlbView, addend)));
    miss.from = out_.here() + longer + 28;
    out_.go_to(p + longer + 41);
  }
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
