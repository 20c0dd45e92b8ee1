// SPDX-License-Identifier: Apache-2.0
// Spec: Intel SDM vol 2, chapter 2 (the encodings) and the instructions' "Flags Affected".
#include "softkvm/translate/random_block.h"

#include <cstdlib>
#include <cstring>

#include "softkvm/cpu/decode_tables.h"
#include "softkvm/cpu/decoder.h"
#include "softkvm/cpu/feature_enabled.h"
#include "softkvm/translate/random_block_permitted.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {
namespace {

using M = Mnemonic;

// What this test leaves out, and why.
bool left_out(const Row& row) {
  switch (row.form) {
    case Form::kSystem:
      switch (row.mnemonic) {
        case M::kCld: case M::kStd: case M::kAaa: case M::kAas: case M::kAam: case M::kAad: case M::kDaa: case M::kDas: case M::kSalc:
        case M::kBound: case M::kInto: return false;
        default: return true;
      }
    case Form::kBranch: return true;  // composed by hand, so that the target is known
    default: break;
  }
  for (unsigned i = 0; i < row.operand_count; i++)
    if (row.operands[i].cls == OperandClass::kVsib) return false;
  switch (row.mnemonic) {
    case M::kIns: case M::kOuts:  // the same #GP, but IOPL is not what is meant here
    case M::kFnstenv: case M::kFnsave: case M::kFxsave: case M::kXsave: case M::kXsavec: case M::kXsaves: case M::kXsaveopt:
      return true;                // FIP, FDP: the engine's are other ones
    case M::kXrstor: case M::kXrstors: case M::kFxrstor: case M::kFldenv: case M::kFrstor: return true;  // random images are #GP
    case M::kClzero: case M::kEnqcmd: case M::kEnqcmds: case M::kMovdir64b: return true;
    case M::kMaskmovq: case M::kMaskmovdqu: case M::kVmaskmovdqu: return false;
    case M::kPopf: case M::kEnter: case M::kLeave: case M::kXlat: return true;  // composed by hand
    default: return false;
  }
}

struct Buckets {
  std::vector<size_t> rows[kDecodeMaps];
  explicit Buckets(CodeMode mode) {
    for (size_t i = 1; i <= decode_row_count(); i++)
      if (RandomBlock::may_draw(i, mode)) rows[decode_row_map(i)].push_back(i);
  }
};

// Is it what RandomBlock::move() makes for rSP, of an address from 0x7fff0000 to the end of the lower half?
bool moves_rsp_into_shadow(const std::vector<uint8_t>& bytes) {
  const size_t size = bytes.size() == 10 ? 8 : 4;
  if (bytes.size() < size + 1 || bytes[bytes.size() - size - 1] != 0xbc || (size == 8 && bytes[0] != 0x48)) return false;
  uint64_t value = 0;
  memcpy(&value, &bytes[bytes.size() - size], size);
  return value >= 0x7fff0000 && value >> 47 == 0;
}

bool x87(const Insn& insn) { return insn.encoding == Encoding::kLegacy && insn.map == OpcodeMap::kOneByte && insn.opcode >= 0xd8 && insn.opcode <= 0xdf; }

}  // namespace

bool RandomBlock::may_draw(size_t number, CodeMode mode) {
  const Row& row = kRows[number];
  const unsigned bit = mode == CodeMode::k64 ? 2 : 1, modes = row.match >> match::kModeShift & 3;
  return (!modes || modes & bit) && !left_out(row);
}

uint32_t undefined_flags_of(const Insn& insn) {
  bool one = insn.immediate_size == 0 && (insn.opcode == 0xd0 || insn.opcode == 0xd1);
  if (insn.immediate_size) one = (insn.immediate & (insn.operands[0].size == 8 ? 63 : 31)) == 1;
  switch (insn.mnemonic) {
    case M::kAnd: case M::kOr: case M::kXor: case M::kTest: return kAF;
    case M::kAndn: case M::kBlsi: case M::kBlsr: case M::kBlsmsk: case M::kBzhi: return kAF | kPF;
    case M::kBextr: return kAF | kPF | kSF;
    case M::kTzcnt: case M::kLzcnt: return kOF | kSF | kPF | kAF;
    case M::kBsf: case M::kBsr: return kStatusFlags & ~kZF;
    case M::kMul: case M::kImul: return kSF | kZF | kAF | kPF;
    case M::kDiv: case M::kIdiv: return kStatusFlags;
    case M::kAaa: case M::kAas: return kOF | kSF | kZF | kPF;
    case M::kDaa: case M::kDas: return kOF;
    case M::kAam: case M::kAad: return kOF | kAF | kCF;
    case M::kBt: case M::kBtc: case M::kBtr: case M::kBts: return kOF | kSF | kAF | kPF;
    case M::kShl: case M::kShr: case M::kSar: return kAF | (one ? 0 : kOF) | (insn.operands[0].size < 4 ? kCF : 0);
    case M::kShld: case M::kShrd: return insn.operands[0].size == 2 ? kStatusFlags : kAF | (one ? 0 : kOF);
    case M::kRol: case M::kRor: case M::kRcl: case M::kRcr: return one ? 0 : kOF;
    default: return 0;
  }
}

RandomBlock::RandomBlock(uint64_t seed, const Vcpu& vcpu, CodeMode mode)
    : vcpu_(&vcpu), mode_(mode), long_(mode == CodeMode::k64), rng_(seed) {
  offset = chance(30) ? 4096 - static_cast<unsigned>(pick(100)) : static_cast<unsigned>(pick(2048));
  unsigned count = 1 + static_cast<unsigned>(pick(chance(50) ? 8 : 32));
  while (units.size() < count) {
    Unit unit;
    over_page_end_ = false;
    if (chance(12)) long_ ? composed(unit) : composed_narrow(unit);
    else if (!instruction(unit)) continue;
    unit.over_page_end = over_page_end_;
    units.push_back(std::move(unit));
  }
}

uint32_t RandomBlock::undefined_flags() const {
  uint32_t mask = 0;
  for (const Unit& u : units) {
    // Worked out anew, for units may have been taken out.
    for (const Unit::Piece& p : u.pieces) {
      Insn insn;
      if (decode(p.bytes.data(), p.bytes.size(), mode_, insn) != DecodeStatus::kOk) continue;
      mask = (mask & ~insn.flags_written) | undefined_flags_of(insn);
    }
  }
  return mask & kStatusFlags;
}

std::vector<uint8_t> RandomBlock::assemble() const {
  std::vector<uint8_t> out;
  for (const Unit& u : units)
    for (const Unit::Piece& p : u.pieces) {
      size_t at = out.size();
      out.insert(out.end(), p.bytes.begin(), p.bytes.end());
      if (p.rip_at < 0) continue;
      uint64_t next = BlockSpace::kCode + offset + out.size();
      uint32_t d = static_cast<uint32_t>(p.rip_target - next);
      memcpy(&out[at + static_cast<unsigned>(p.rip_at)], &d, 4);
      Insn check;
      if (decode(&out[at], p.bytes.size(), mode_, check) != DecodeStatus::kOk || check.displacement != static_cast<int32_t>(d)) abort();
    }
  out.push_back(0xf4);  // HLT: #GP at CPL 3
  return out;
}

void RandomBlock::move(Unit& unit, unsigned reg, uint64_t value) {
  Unit::Piece p;
  if (long_) p.bytes.push_back(static_cast<uint8_t>(0x48 | reg >> 3));
  if (mode_ == CodeMode::k16) p.bytes.push_back(0x66);
  p.bytes.push_back(static_cast<uint8_t>(0xb8 | (reg & 7)));
  for (unsigned i = 0; i < (long_ ? 8 : 4); i++) p.bytes.push_back(static_cast<uint8_t>(value >> 8 * i));
  unit.pieces.push_back(p);
}

// An address for an access of `size` bytes.
uint64_t RandomBlock::address(unsigned size, bool& faults) {
  faults = false;
  auto page = [&] {
    unsigned n;
    do n = 1 + static_cast<unsigned>(pick(14)); while (BlockSpace::kind(n) != BlockSpace::Kind::kWritable);
    return BlockSpace::kData + n * 4096;
  };
  unsigned what = static_cast<unsigned>(pick(100));
  if (what < 55) return page() + pick(4096 / 64) * 64;
  if (what < 75) return page() + pick(4096 - 64);
  if (what < 94) {  // the end of the page, and over it; the next may be absent or read-only
    const uint64_t before_end = pick(size + 1);
    over_page_end_ |= before_end != 0 && before_end < size;
    return page() + 4096 - before_end;
  }
  faults = true;
  if (!long_ && pick(5) > 1) return 0xfff00000 + pick(0x80000);
  switch (pick(long_ ? 5 : 2)) {
    case 0: return BlockSpace::kData + 6 * 4096 + pick(4096);
    case 1: return BlockSpace::kData + 8 * 4096 + pick(8192);
    case 2: return 0x0000800000000000 - pick(size + 1);
    case 3: return 0x1234567890abcdef;
    default: return 0xffff800000000000 + pick(4096);
  }
}

bool RandomBlock::instruction(Unit& unit) {
  static const Buckets buckets_64(CodeMode::k64), buckets_32(CodeMode::k32);
  const Buckets& buckets = long_ ? buckets_64 : buckets_32;
  unsigned w = static_cast<unsigned>(pick(100));
  DecodeMap map = w < 35   ? kLegacyOneByte
                  : w < 60 ? kLegacy0F
                  : w < 66 ? kLegacy0F38
                  : w < 69 ? kLegacy0F3A
                           : static_cast<DecodeMap>(kVex0F + pick(kDecodeMaps - kVex0F));
  const auto& rows = buckets.rows[map];
  if (rows.empty()) return false;
  const size_t number = rows[pick(rows.size())];
  const Row& row = kRows[number];
  uint8_t opcode = static_cast<uint8_t>(row.match & match::kOpcode);
  unsigned spread = row.match >> 30;
  if (spread) opcode = static_cast<uint8_t>(opcode + pick(spread == 1 ? 8 : 16));
  unsigned prefixes = row.match >> match::kPrefixShift & 15;
  unsigned pp = 0;
  if (prefixes) do pp = static_cast<unsigned>(pick(4)); while (!(prefixes >> pp & 1));
  else if (map <= kLegacy0F3A && chance(20)) pp = 1;
  std::vector<uint8_t> b;
  if (chance(mode_ == CodeMode::k16 ? 80 : 5)) b.push_back(0x67);  // nothing is mapped where 16-bit addresses reach
  static constexpr uint8_t kSegments[] = {0x26, 0x2e, 0x36, 0x3e};
  if (chance(long_ ? 3 : 8)) b.push_back(long_ ? 0x65 : kSegments[pick(4)]);
  if (row.attributes & kLock && chance(30)) b.push_back(0xf0);
  auto r = [&] { return static_cast<uint8_t>(rng_()); };
  if (map <= kLegacy0F3A) {
    if (row.form == Form::kString && chance(60)) b.push_back(chance(70) ? 0xf3 : 0xf2);
    if (pp) b.push_back(pp == 1 ? 0x66 : pp == 2 ? 0xf3 : 0xf2);
    if (long_ && chance(65)) b.push_back(static_cast<uint8_t>(0x40 | (r() & 15)));
    if (map != kLegacyOneByte) b.push_back(0x0f);
    if (map == kLegacy0F38) b.push_back(0x38);
    if (map == kLegacy0F3A) b.push_back(0x3a);
  } else {
    uint8_t vvvv = row.attributes & kUsesVvvv ? r() & 0x78 : 0x78;
    if (map <= kVex0F3A) {
      uint8_t mm = static_cast<uint8_t>(map - kVex0F + 1);
      for (unsigned v : {0xc4u, (r() & 0xe0u) | (long_ ? 0 : 0xc0) | mm, (r() & 0x80u) | vvvv | (r() & 4u) | pp}) b.push_back(static_cast<uint8_t>(v));
    } else {
      static constexpr uint8_t kMm[] = {1, 2, 3, 5, 6};
      uint8_t p2 = r() & 0x60;
      p2 |= row.attributes & kUsesVvvv ? r() & 8 : 8;
      if (chance(25)) p2 |= 0x10;
      if (row.attributes & kMaskBits && (chance(50) || (row.attributes & kMaskBits) == kMaskNeeded)) p2 |= r() & 0x87;
      for (unsigned v : {0x62u, (r() & 0xf0u) | (long_ ? 0 : 0xc0) | kMm[map - kEvex0F], (r() & 0x80u) | vvvv | 4u | pp, unsigned{p2}}) b.push_back(static_cast<uint8_t>(v));
    }
  }
  b.push_back(opcode);
  bool vsib = false;
  for (unsigned i = 0; i < row.operand_count; i++) vsib |= row.operands[i].cls == OperandClass::kVsib;
  if (row.attributes & kModrm) {
    uint8_t modrm = r();
    if ((row.match >> match::kModShift & 3) == 2) modrm |= 0xc0;
    else if ((row.match >> match::kModShift & 3) == 1 || chance(45)) modrm &= static_cast<uint8_t>(chance(50) ? 0x3f : chance(50) ? 0x7f : 0xbf);
    if (row.match & match::kHasReg) modrm = static_cast<uint8_t>((modrm & ~0x38) | (row.match >> match::kRegShift & 7) << 3);
    if (row.match & match::kHasRm) modrm = static_cast<uint8_t>((modrm & ~7) | (row.match >> match::kRmShift & 7));
    if (vsib) modrm = static_cast<uint8_t>((modrm & ~7) | 4);
    b.push_back(modrm);
  }
  while (b.size() < kMaxInsnLength) b.push_back(r());
  Insn insn;
  if (decode(b.data(), b.size(), mode_, insn) != DecodeStatus::kOk || insn.mnemonic != row.mnemonic || insn.form == Form::kSystem) {
    if (row.form != Form::kSystem || insn.mnemonic != row.mnemonic) return false;
  }
  b.resize(insn.length);
  if (insn.feature && !feature_enabled(*vcpu_, static_cast<Feature>(insn.feature))) return false;
  if (insn.segment_prefix == kFS || insn.segment == kFS) return false;
  if (reads_stale_stack_pointer(insn, vcpu_->vendor_is_amd)) return false;
  // KMOVQ k, r64 outside of 64-bit mode reads the upper half that KMOVQ r64, k may have left undefined.
  if (upper_half_undefined_ && insn.mnemonic == M::kKmovd && insn.w && insn.operands[1].kind == OperandKind::kGpr) return false;
  if (x87(insn) && chance(60)) return false;
  if (insn.flags_read & tainted_) return false;
  if ((insn.mnemonic == M::kShld || insn.mnemonic == M::kShrd) && insn.operand_size == 2) {  // undefined where the count exceeds 16
    if (!insn.immediate_size) move(unit, kRcx, pick(16));
    else if ((insn.immediate & 31) > 16) return false;
  }
  if ((insn.mnemonic == M::kDiv || insn.mnemonic == M::kIdiv) && chance(80)) move(unit, kRdx, pick(3) ? 0 : pick(50));
  if (insn.form == Form::kString) {
    if (insn.segment_prefix != kNoRegister || insn.address_size == 2) return false;
    bool faults;
    move(unit, kRcx, pick(20));
    const uint64_t from = address(16, faults), to = address(16, faults);
    // Whether a fault before the first element leaves the upper halves of rSI and rDI is not documented.
    if (insn.addrsize && (from | to) >> 32) return false;
    move(unit, kRsi, from);
    move(unit, kRdi, to);
  }
  if (insn.mnemonic == M::kMaskmovq || insn.mnemonic == M::kMaskmovdqu || insn.mnemonic == M::kVmaskmovdqu) {
    if (insn.segment_prefix != kNoRegister || insn.addrsize) return false;
    bool faults;
    uint64_t to = address(16, faults);
    if (to >> 46) return false;
    move(unit, kRdi, to);
  }
  if (insn.form == Form::kStack && chance(10)) {
    bool faults;
    move(unit, kRsp, address(8, faults));
  }
  for (unsigned i = 0; i < insn.operand_count; i++) {
    const Operand& o = insn.operands[i];
    if (o.kind == OperandKind::kMoffs) {
      bool faults;
      uint64_t to = address(o.size, faults);
      if (insn.segment == kGS) to -= BlockSpace::kGsBase;
      if (insn.address_size == 2 || (insn.address_size == 4 && to >> 32)) return false;
      for (unsigned k = 0; k < insn.address_size; k++) b[b.size() - insn.address_size + k] = static_cast<uint8_t>(to >> 8 * k);
    }
    // The stack pointer may end anywhere: what uses it next must not reach the process's own memory.
  }
  if (insn.has_modrm && insn.modrm >> 6 != 3 && insn.mnemonic != M::kLea) {
    if (vsib) {
      // Indices of -128 to 127, from whatever bytes a low register holds: VPMOVSXBD or VPMOVSXBQ zmm, xmm.
      const unsigned v = insn.index;
      unit.pieces.push_back({{0x62, static_cast<uint8_t>(0x62 | (v & 8 ? 0 : 0x80) | (v & 16 ? 0 : 0x10)), 0x7d, 0x48, static_cast<uint8_t>(insn.opcode & 1 ? 0x22 : 0x21),
                              static_cast<uint8_t>(0xc0 | (v & 7) << 3 | pick(8))}, -1, 0});
      if (insn.base == kNoRegister) return false;
      insn.index = kNoRegister;
    }
    if (!place_memory(unit, insn, b)) return false;
    if ((insn.mnemonic == M::kLdmxcsr || insn.mnemonic == M::kVldmxcsr) && !insn.rip_relative && chance(80)) give_mxcsr(unit, insn, b);
  }
  Unit::Piece piece;
  piece.bytes = b;
  if (insn.rip_relative && insn.mnemonic != M::kLea) {
    bool faults;
    piece.rip_at = static_cast<int>(insn.length - insn.immediate_size - (row.attributes & kIs4 && !insn.immediate_size ? 1 : 0) - 4);
    do piece.rip_target = address(64, faults); while (piece.rip_target >> 32);
    if (insn.segment == kGS) piece.rip_target -= BlockSpace::kGsBase;
  }
  unit.pieces.push_back(piece);
  // As a base it may have become an address that a sanitizer's process has mapped (its shadow): nothing may push there.
  for (size_t i = 0; insn.base == kRsp && i + 1 < unit.pieces.size(); i++)
    if (moves_rsp_into_shadow(unit.pieces[i].bytes)) {
      move(unit, kRsp, BlockSpace::kStack);
      break;
    }
  bool moves_rsp = false;
  for (unsigned i = 0; i < insn.operand_count; i++)
    moves_rsp |= insn.operands[i].kind == OperandKind::kGpr && insn.operands[i].reg == kRsp && !insn.operands[i].high &&
                 static_cast<unsigned>(insn.operands[i].access) & 2;
  if (moves_rsp) {
    // Kept for comparison in another register, then made good.
    if (long_) unit.pieces.push_back({{0x49, 0x89, static_cast<uint8_t>(0xe0 | pick(8))}, -1, 0});
    else if (mode_ == CodeMode::k16) unit.pieces.push_back({{0x66, 0x89, static_cast<uint8_t>(0xe0 | (5 + pick(3)))}, -1, 0});
    else unit.pieces.push_back({{0x89, static_cast<uint8_t>(0xe0 | (5 + pick(3)))}, -1, 0});
    move(unit, kRsp, BlockSpace::kStack);
  }
  tainted_ = (tainted_ & ~insn.flags_written) | undefined_flags_of(insn);
  unit.name = mnemonic_name(insn.mnemonic);
  unit.row = number;
  upper_half_undefined_ |= permitted(PermittedDifference::What::kUpperHalf, insn, vcpu_->vendor_is_amd) && insn.operands[0].kind == OperandKind::kGpr;
  return true;
}

// Random bytes are hardly ever an MXCSR: MOV dword [the operand], with bits that every CPU has.
void RandomBlock::give_mxcsr(Unit& unit, const Insn& insn, const std::vector<uint8_t>& b) {
  const uint32_t value = (static_cast<uint32_t>(rng_()) & 0xffbf) | (chance(75) ? 0x1f80 : 0);
  const size_t modrm = b.size() - insn.displacement_size - insn.has_sib - 1;
  Unit::Piece p;
  if (insn.addrsize) p.bytes.push_back(0x67);
  if (insn.segment_prefix != kNoRegister) p.bytes.push_back(std::initializer_list<uint8_t>{0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65}.begin()[insn.segment_prefix]);
  if (mode_ == CodeMode::k16) p.bytes.push_back(0x66);
  if (long_) p.bytes.push_back(static_cast<uint8_t>(0x40 | (insn.index != kNoRegister && insn.index & 8 ? 2 : 0) | (insn.base != kNoRegister && insn.base & 8 ? 1 : 0)));
  p.bytes.push_back(0xc7);
  p.bytes.push_back(b[modrm] & 0xc7);
  p.bytes.insert(p.bytes.end(), b.begin() + static_cast<std::ptrdiff_t>(modrm) + 1, b.end());
  for (unsigned i = 0; i < 4; i++) p.bytes.push_back(static_cast<uint8_t>(value >> 8 * i));
  unit.pieces.push_back(p);
}

// Gives the registers of a memory operand values such that it lies where the test wants it.
bool RandomBlock::place_memory(Unit& unit, Insn& insn, std::vector<uint8_t>& b) {
  // A register as the bit's number reaches 2^60 bytes around: somewhere there may be memory that only the host has.
  const bool bit_test = insn.form == Form::kSpecial && insn.operand_count == 2 && insn.operands[1].kind == OperandKind::kGpr && insn.map == OpcodeMap::k0F &&
                        (insn.mnemonic == M::kBt || insn.mnemonic == M::kBtc || insn.mnemonic == M::kBtr || insn.mnemonic == M::kBts);
  const unsigned bits = bit_test ? insn.operands[1].reg : 16;
  auto give_bits = [&] {
    move(unit, bits, static_cast<uint64_t>(static_cast<int64_t>(pick(20000)) - 10000) | (insn.operands[1].size < 8 ? rng_() << 8 * insn.operands[1].size : 0));
  };
  if (insn.rip_relative) {
    if (bits == kRsp) return false;
    if (bit_test) give_bits();
    return insn.address_size == 8;
  }
  unsigned size = 8;
  if (const Operand* mem = insn.memory_operand()) size = mem->size ? mem->size : 64;
  bool faults;
  uint64_t to = address(size, faults);
  // Half of an 80-bit store may be done when the other half faults.
  if (size == 10 && (to & 0xfff) > 4096 - 10) return false;
  // Which of #GP and #PF a masked access over the end of the canonical addresses gives, depends on its elements.
  if (insn.form == Form::kSpecial && insn.encoding != Encoding::kLegacy && to < 0x800000000000 && to > 0x7fffffff0000) return false;
  // Nor is the order of #XM and #PF in a conversion that stores.
  if (insn.mnemonic == M::kVcvtps2ph && (faults || (to & 0xfff) > 4096 - 32)) return false;
  if (insn.segment == kGS) to -= BlockSpace::kGsBase;
  const bool narrow = insn.address_size == 4;
  if (insn.address_size == 2) return size != 10 && insn.mnemonic != M::kVcvtps2ph && chance(30);  // wherever it points, it faults: the address shows
  if (narrow && to >> 32) return false;
  if (bits == insn.base || bits == insn.index || (bits == kRsp)) return false;
  uint64_t index = rng_() % 257 - 128;
  if (insn.base == kNoRegister && insn.index == kNoRegister) {
    if (long_ && (to + 0x80000000) >> 32) return false;
    memcpy(&b[insn.length - insn.immediate_size - 4], &to, 4);
  } else if (insn.base == kNoRegister) {
    uint64_t d = to - index * insn.scale;
    if (long_ && (d + 0x80000000) >> 32) return false;
    memcpy(&b[insn.length - insn.immediate_size - 4], &d, 4);
    move(unit, insn.index, narrow ? (index & 0xffffffff) | rng_() << 32 : index);
  } else if (insn.base == insn.index) {
    if (faults || narrow) return false;
    uint64_t n = insn.scale + 1u;
    int64_t v = static_cast<int64_t>(to - static_cast<uint64_t>(insn.displacement)) / static_cast<int64_t>(n);
    move(unit, insn.base, static_cast<uint64_t>(v));
  } else {
    uint64_t base = to - static_cast<uint64_t>(insn.displacement);
    if (insn.index != kNoRegister) {
      base -= index * insn.scale;
      move(unit, insn.index, narrow ? (index & 0xffffffff) | rng_() << 32 : index);
    }
    move(unit, insn.base, narrow ? (base & 0xffffffff) | rng_() << 32 : base);
  }
  if (bit_test) give_bits();
  Insn again;
  if (decode(b.data(), b.size(), mode_, again) != DecodeStatus::kOk || again.length != insn.length || again.mnemonic != insn.mnemonic) return false;
  if (insn.base == kNoRegister) {
    uint64_t got = static_cast<uint64_t>(again.displacement) + (insn.index == kNoRegister ? 0 : index * insn.scale);
    if (got != to && !narrow) return false;
    if (narrow && static_cast<uint32_t>(got) != to) return false;
  }
  return true;
}

// The same for 32-bit and 16-bit code.
void RandomBlock::composed_narrow(Unit& unit) {
  auto code = [&](std::initializer_list<uint8_t> bytes) { unit.pieces.push_back({bytes, -1, 0}); };
  auto byte = [&] { return static_cast<uint8_t>(rng_()); };
  bool faults;
  const bool word = mode_ == CodeMode::k16;
  static constexpr uint8_t kRegisters[] = {0, 1, 2, 3, 5, 6, 7};
  const uint8_t reg = kRegisters[pick(7)];
  switch (pick(10)) {
    case 0:
      unit.name = "call, ret";
      if (word) code({0xe8, 2, 0});
      else code({0xe8, 2, 0, 0, 0});
      code({0xeb, 1});
      code({0xc3});
      break;
    case 1: {
      unit.name = "jcc";
      unit.passed_over = 1;
      uint8_t cc = static_cast<uint8_t>(pick(16));
      static constexpr uint32_t kReads[8] = {kOF, kCF, kZF, kCF | kZF, kSF, kPF, kSF | kOF, kSF | kOF | kZF};
      if (kReads[cc / 2] & tainted_) cc = 2, code({0xf8});
      code({static_cast<uint8_t>(0x70 | cc), 2});
      code({static_cast<uint8_t>(0xb0 | reg % 4), byte()});
      break;
    }
    case 2:
      unit.name = "loop";
      move(unit, kRcx, 1 + pick(5));
      code({0x01, static_cast<uint8_t>(0xc8 | (reg == kRcx ? 0 : reg))});  // add reg, ecx
      code({0xe2, 0xfc});
      tainted_ = 0;
      break;
    case 3: {
      unit.name = "call, pop, jmp or call indirect";
      unit.passed_over = 1;
      const bool call = chance(50);
      if (word) code({0xe8, 0, 0});
      else code({0xe8, 0, 0, 0, 0});
      code({static_cast<uint8_t>(0x58 | reg)});
      code({0x83, static_cast<uint8_t>(0xc0 | reg), 8});
      code({0xff, static_cast<uint8_t>((call ? 0xd0 : 0xe0) | reg)});
      code({0xb0, 1});
      if (call) code({0x58});
      tainted_ = 0;
      break;
    }
    case 4:
      unit.name = "popf";
      if (word) code({0x66});
      code({0x68, static_cast<uint8_t>(byte() & 0xd7), static_cast<uint8_t>(byte() & 0x0e), static_cast<uint8_t>(chance(25) ? 4 : 0), 0});
      if (word) code({0x66});
      code({0x9d});
      tainted_ = 0;
      break;
    case 5:
      if (tainted_) code({0x31, 0xc0}), code({0x01, 0xc0}), tainted_ = 0;
      unit.name = "pushf, pop";
      code({0x9c});
      code({static_cast<uint8_t>(0x58 | reg)});
      break;
    case 6:
      unit.name = "xlat";
      move(unit, kRbx, address(256, faults));
      if (word) code({0x67});
      code({0xd7});
      break;
    case 7:
      unit.name = "enter, leave";
      // With 16-bit operands ENTER leaves the upper half of rBP: a wild one would send LEAVE to whatever this process has mapped there.
      move(unit, kRbp, BlockSpace::kStack);
      code({0xc8, static_cast<uint8_t>(byte() & 0x78), 0, static_cast<uint8_t>(chance(70) ? 0 : 1)});
      if (chance(80)) code({0xc9});
      break;
    case 8:
      unit.name = "leave";
      move(unit, kRbp, address(8, faults));
      code({0xc9});
      break;
    default:
      unit.name = "jecxz";
      unit.passed_over = 1;
      if (chance(50)) move(unit, kRcx, chance(50) ? 0 : 0x10000);
      if (chance(50)) code({0x67, 0xe3, 2});
      else code({0xe3, 2});
      code({static_cast<uint8_t>(0xb0 | reg % 4), byte()});
  }
}

// Control flow, the stack and what else needs more than one operand known.
void RandomBlock::composed(Unit& unit) {
  auto code = [&](std::initializer_list<uint8_t> bytes) { unit.pieces.push_back({bytes, -1, 0}); };
  auto byte = [&] { return static_cast<uint8_t>(rng_()); };
  bool faults;
  uint8_t reg = static_cast<uint8_t>(pick(8));
  switch (pick(14)) {
    case 0:
      unit.name = "call, ret";
      code({0xe8, 2, 0, 0, 0});
      code({0xeb, 1});
      code({0xc3});
      break;
    case 11:
    case 12:
    case 13: return several_accesses(unit);
    case 1: {
      unit.name = "jcc";
      unit.passed_over = 1;
      uint8_t cc = static_cast<uint8_t>(pick(16));
      static constexpr uint32_t kReads[8] = {kOF, kCF, kZF, kCF | kZF, kSF, kPF, kSF | kOF, kSF | kOF | kZF};
      if (kReads[cc / 2] & tainted_) cc = 2, code({0xf8});
      code({static_cast<uint8_t>(0x70 | cc), 2});
      code({static_cast<uint8_t>(0xb0 | reg % 4), byte()});
      break;
    }
    case 2:
      unit.name = "loop";
      code({0xb9, static_cast<uint8_t>(1 + pick(5)), 0, 0, 0});
      code({0x49, 0x01, static_cast<uint8_t>(0xc8 | reg)});  // add r8+reg, rcx
      code({0xe2, 0xfb});
      tainted_ = 0;
      break;
    case 3:
      unit.name = "call indirect";
      code({static_cast<uint8_t>(0x49), 0x8d, static_cast<uint8_t>(0x05 | reg << 3 | 0), 0, 0, 0, 0});  // lea rX, [rip + ...], patched below
      unit.pieces.back().bytes[0] = 0x4c;
      unit.pieces.back().bytes[3] = 5;                        // behind the call and the jump
      code({0x41, 0xff, static_cast<uint8_t>(0xd0 | reg)});   // call r8+reg
      code({0xeb, 3});
      code({0xc2, 8, 0});                                     // ret 8
      break;
    case 4:
      unit.name = "jmp indirect";
      unit.passed_over = 1;
      code({0x4c, 0x8d, static_cast<uint8_t>(0x05 | reg << 3), 5, 0, 0, 0});
      code({0x41, 0xff, static_cast<uint8_t>(0xe0 | reg)});
      code({0xb0, 1});
      break;
    case 5:
      unit.name = "popf";
      // Status flags and DF at will; AC at times; IF, IOPL ignored at CPL 3.
      code({0x68, static_cast<uint8_t>(byte() & 0xd7), static_cast<uint8_t>(byte() & 0x0e), static_cast<uint8_t>(chance(25) ? 4 : 0), 0});
      code({0x9d});
      tainted_ = 0;
      break;
    case 6:
      if (tainted_) code({0x31, 0xc0}), code({0x01, 0xc0}), tainted_ = 0;
      unit.name = "pushf, pop";
      code({0x9c});
      code({0x41, static_cast<uint8_t>(0x58 | reg)});
      break;
    case 7:
      unit.name = "xlat";
      move(unit, kRbx, address(256, faults));
      code({0xd7});
      break;
    case 8:
      unit.name = "enter, leave";
      code({0xc8, static_cast<uint8_t>(byte() & 0x78), 0, static_cast<uint8_t>(chance(70) ? 0 : 1)});
      if (chance(80)) code({0xc9});
      break;
    case 9:
      unit.name = "leave";
      move(unit, kRbp, address(8, faults));
      code({0xc9});
      break;
    default:
      unit.name = "jrcxz";
      unit.passed_over = 1;
      if (chance(50)) move(unit, kRcx, chance(50) ? 0 : 0x100000000);
      if (chance(50)) code({0x67, 0xe3, 2});
      else code({0xe3, 2});
      code({static_cast<uint8_t>(0xb0 | reg % 4), byte()});
  }
}

// By one register, which changes by constants in between, or is loaded anew: what may share a check, and what may not.
void RandomBlock::several_accesses(Unit& unit) {
  unit.name = "several accesses";
  auto code = [&](std::initializer_list<unsigned> bytes) {
    Unit::Piece p;
    for (unsigned b : bytes) p.bytes.push_back(static_cast<uint8_t>(b));
    unit.pieces.push_back(p);
  };
  const unsigned base = static_cast<unsigned>(pick(16));
  unsigned index = kRsp;  // none
  if (chance(25)) do index = static_cast<unsigned>(pick(16)); while (index == base || index == kRsp);
  const unsigned shift = static_cast<unsigned>(pick(4));
  auto other = [&] {
    unsigned r;
    do r = static_cast<unsigned>(pick(16)); while (r == base || r == index || r == kRsp);
    return r;
  };
  bool faults;
  auto place = [&] { move(unit, base, address(64, faults) - 64 - (index != kRsp ? 16u << shift : 0)); };
  // With REX.W, reg and [base + index << shift + a byte].
  auto access = [&](std::initializer_list<unsigned> opcode, unsigned reg) {
    Unit::Piece p;
    p.bytes.push_back(static_cast<uint8_t>(0x48 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3));
    for (unsigned b : opcode) p.bytes.push_back(static_cast<uint8_t>(b));
    p.bytes.push_back(static_cast<uint8_t>(0x44 | (reg & 7) << 3));
    p.bytes.push_back(static_cast<uint8_t>(shift << 6 | (index & 7) << 3 | (base & 7)));
    p.bytes.push_back(static_cast<uint8_t>(pick(128)));
    unit.pieces.push_back(p);
  };
  if (index != kRsp) move(unit, index, 16);
  place();
  for (uint64_t n = 2 + pick(8); n; n--) {
    const unsigned r = other();
    switch (pick(14)) {
      case 0: case 1: case 2: access({0x8b}, r); break;        // mov r, m
      case 3: case 4: access({0x89}, r); break;                // mov m, r
      case 5: access({0x01}, r), tainted_ = 0; break;          // add m, r
      case 6:
        if (tainted_ & kCF) code({0xf8});                      // clc
        access({0x13}, r), tainted_ = 0;                       // adc r, m
        break;
      case 7: access({0x0f, chance(50) ? 0x10u : 0x11u}, r); break;  // movups
      case 8: access({0x0f, 0xb6}, r); break;                  // movzx r, byte m
      case 9: code({0x48 | base >> 3, 0x83, 0xc0 | (base & 7), static_cast<unsigned>(pick(256))}), tainted_ = 0; break;  // add base, imm8
      case 10:                                                 // lea base, [base + imm8]
        code({0x48 | (base >> 3) * 5, 0x8d, 0x44 | (base & 7) << 3, 0x20 | (base & 7), static_cast<unsigned>(pick(256))});
        break;
      case 11:
        code({0x85, 0xc0});                                    // test eax, eax; jz over mov al, imm8
        tainted_ |= kAF;
        code({0x74, 2});
        code({0xb0 | r % 4, static_cast<unsigned>(pick(256))});
        unit.passed_over++;
        break;
      case 12:
        if (base == kRsp || chance(30)) {                      // push r, pop r
          code({0x40 | r >> 3, (chance(50) ? 0x50 : 0x58) | (r & 7)});
        } else if (index != kRsp) {
          code({0x48 | index >> 3, 0xff, 0xc0 | (index & 7)});  // inc index
          tainted_ &= kCF;
        }
        break;
      default:
        if (base == kRsp) break;
        access({0x8b}, base);                                  // mov base, m
        place();
    }
  }
  if (base == kRsp) move(unit, kRsp, BlockSpace::kStack);
}

}  // namespace vireo::softkvm
