// SPDX-License-Identifier: Apache-2.0
// The decoder against Zydis: every opcode of every map with all mandatory prefixes, modrm forms, W, vector lengths and masks in the three modes, and
// random byte strings (VIREO_DECODER_RANDOM says how many; VIREO_DECODER_FULL=1 crosses all fields of VEX and EVEX instead of sampling).
// Compared: validity, length, opcode, name, prefixes, fields, operands, flags. What may differ is in decoder_zydis_permitted.h, with its reason.
#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <string_view>

#include "softkvm/cpu/decoder.h"
#include "softkvm/cpu/decoder_zydis_permitted.h"

namespace vireo::softkvm {
namespace {

constexpr const char* kConditions[16] = {"o", "no", "b", "nb", "z", "nz", "be", "nbe", "s", "ns", "p", "np", "l", "nl", "le", "nle"};

// Our name as Zydis spells it.
std::string zydis_name(const Insn& i) {
  using enum Mnemonic;
  const std::string name = mnemonic_name(i.mnemonic);
  const bool byte = i.operand_count && i.operands[0].size == 1;
  const auto by_size = [&](const char* s2, const char* s4, const char* s8) { return std::string(i.operand_size == 2 ? s2 : i.operand_size == 4 ? s4 : s8); };
  switch (i.mnemonic) {
    case kJcc: return std::string("j") + kConditions[i.opcode & 15];
    case kSetcc: return std::string("set") + kConditions[i.opcode & 15];
    case kCmovcc: return std::string("cmov") + kConditions[i.opcode & 15];
    case kCbw: return by_size("cbw", "cwde", "cdqe");
    case kCwd: return by_size("cwd", "cdq", "cqo");
    case kPushf: case kPopf: return name + by_size("", "d", "q");
    case kPusha: case kPopa: return name + by_size("", "d", "");
    case kIret: return name + by_size("", "d", "q");
    case kMovs: case kStos: case kLods: case kCmps: case kScas:
      return name + (byte ? "b" : by_size("w", "d", "q"));
    case kIns: case kOuts: return name + (!(i.opcode & 1) ? "b" : by_size("w", "d", "d"));
    case kJcxz: return i.address_size == 2 ? "jcxz" : i.address_size == 4 ? "jecxz" : "jrcxz";
    case kLoope: return "loope";
    case kCallFar: return "call";
    case kJmpFar: return "jmp";
    case kRetFar: return "ret";
    case kXsave: case kXsavec: case kXsaves: case kXsaveopt: case kXrstor: case kXrstors: case kFxsave: case kFxrstor: return name + (i.w ? "64" : "");
    default: return name;
  }
}

std::string hex(const uint8_t* bytes, unsigned size) {
  std::string s;
  char b[4];
  for (unsigned i = 0; i < size; i++) snprintf(b, sizeof b, "%02x ", bytes[i]), s += b;
  return s;
}

struct Comparison {
  std::string what;  // empty: the same
  std::string ours, theirs, isa;
};

struct Judge {
  ZydisDecoder decoder[3];
  Judge() {
    const struct { ZydisMachineMode m; ZydisStackWidth w; } kModes[3] = {
        {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16}, {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32}, {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64}};
    for (int i = 0; i < 3; i++) {
      ZydisDecoderInit(&decoder[i], kModes[i].m, kModes[i].w);
      ZydisDecoderEnableMode(&decoder[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
      ZydisDecoderEnableMode(&decoder[i], ZYDIS_DECODER_MODE_CET, ZYAN_TRUE);
      ZydisDecoderEnableMode(&decoder[i], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_TRUE);
      ZydisDecoderEnableMode(&decoder[i], ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_TRUE);
    }
  }
  Comparison compare(const uint8_t* bytes, unsigned size, CodeMode mode) const;
};

unsigned access_of(const ZydisDecodedOperand& z) {
  unsigned a = 0;
  if (z.actions & ZYDIS_OPERAND_ACTION_MASK_READ) a |= 1;
  if (z.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) a |= 2;
  return a;
}

// One of our operands against one of theirs. Returns what differs or null.
const char* compare_operand(const Insn& i, const Operand& o, const ZydisDecodedInstruction& zi, const ZydisDecodedOperand& z) {
  using K = OperandKind;
  const unsigned bytes = z.size / 8;
  if (z.type == ZYDIS_OPERAND_TYPE_REGISTER) {
    const ZydisRegister r = z.reg.value;
    const ZydisRegisterClass cls = ZydisRegisterGetClass(r);
    unsigned id = unsigned(ZydisRegisterGetId(r));
    switch (cls) {
      case ZYDIS_REGCLASS_GPR8:
        if (o.kind != K::kGpr) return "kind";
        // Numbers 4-7 are AH CH DH BH, then SPL and on.
        if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH) {
          if (!o.high || o.reg != unsigned(r - ZYDIS_REGISTER_AH)) return "high register";
        } else {
          if (r >= ZYDIS_REGISTER_SPL) id = unsigned(r - ZYDIS_REGISTER_SPL) + 4;
          else id = unsigned(r - ZYDIS_REGISTER_AL);
          if (o.high || o.reg != id) return "byte register";
        }
        return o.size == 1 ? nullptr : "size";
      case ZYDIS_REGCLASS_GPR16: case ZYDIS_REGCLASS_GPR32: case ZYDIS_REGCLASS_GPR64:
        if (o.kind != K::kGpr || o.high) return "kind";
        if (o.reg != id) return "register";
        return o.size == bytes ? nullptr : "size";
      case ZYDIS_REGCLASS_X87: return o.kind != K::kX87 ? "kind" : o.reg != id ? "register" : nullptr;
      case ZYDIS_REGCLASS_MMX: return o.kind != K::kMmx ? "kind" : o.reg != id ? "register" : nullptr;
      case ZYDIS_REGCLASS_XMM: case ZYDIS_REGCLASS_YMM: case ZYDIS_REGCLASS_ZMM: {
        if (o.kind != K::kVector) return "kind";
        if (o.reg != id) return "register";
        // Ours may be the part used.
        const unsigned width = cls == ZYDIS_REGCLASS_XMM ? 16 : cls == ZYDIS_REGCLASS_YMM ? 32 : 64;
        return o.size == width || (width == 16 && o.size <= 16) ? nullptr : "vector size";
      }
      case ZYDIS_REGCLASS_SEGMENT: return o.kind != K::kSegment ? "kind" : o.reg != id ? "register" : nullptr;
      case ZYDIS_REGCLASS_CONTROL: return o.kind != K::kControl ? "kind" : o.reg != id ? "register" : nullptr;
      case ZYDIS_REGCLASS_DEBUG: return o.kind != K::kDebug ? "kind" : o.reg != id ? "register" : nullptr;
      case ZYDIS_REGCLASS_MASK: return o.kind != K::kMask ? "kind" : o.reg != id ? "register" : nullptr;
      default: return "register class";
    }
  }
  if (z.type == ZYDIS_OPERAND_TYPE_MEMORY) {
    if (o.kind == K::kString) {
      if (unsigned(ZydisRegisterGetId(z.mem.base)) != o.reg) return "string register";
      return o.size == bytes ? nullptr : "size";
    }
    if (o.kind == K::kMoffs) {
      const uint64_t mask = i.address_size == 8 ? ~0ull : (1ull << 8 * i.address_size) - 1;
      if ((uint64_t(z.mem.disp.value) & mask) != uint64_t(i.displacement)) return "offset";
      return o.size == bytes ? nullptr : "size";
    }
    if (o.kind != K::kMemory && o.kind != K::kVectorMemory) return "kind";
    const bool rip = z.mem.base == ZYDIS_REGISTER_RIP || z.mem.base == ZYDIS_REGISTER_EIP;
    if (rip != i.rip_relative) return "rip-relative";
    const unsigned base = z.mem.base == ZYDIS_REGISTER_NONE || rip ? kNoRegister : unsigned(ZydisRegisterGetId(z.mem.base));
    const unsigned index = z.mem.index == ZYDIS_REGISTER_NONE ? kNoRegister : unsigned(ZydisRegisterGetId(z.mem.index));
    // SDM vol 2, table 2-5: with mod 0, SIB base 5 is no base whatever REX.B says; Zydis 4.0 has r13d and
    // no displacement there with a 67 prefix.
    const bool no_base = i.address_size == 4 && i.modrm < 0x40 && i.has_sib && (i.sib & 7) == 5 && i.base == kNoRegister && base == 13;
    if (base != i.base && !no_base) return "base";
    if (index != i.index) return "index";
    if (index != kNoRegister && (z.mem.scale ? z.mem.scale : 1) != i.scale) return "scale";
    if ((no_base ? zi.raw.disp.value : z.mem.disp.value) != i.displacement) return "displacement";
    if (o.access != OperandAccess::kNone && z.mem.segment != ZYDIS_REGISTER_NONE && unsigned(ZydisRegisterGetId(z.mem.segment)) != i.segment) return "segment";
    if (o.access == OperandAccess::kNone) return o.size ? "size" : nullptr;
    if (o.kind == K::kVectorMemory) return o.size == z.element_size / 8u ? nullptr : "element size";
    if (o.size == 0 && i.form == Form::kSpecial) return nullptr;  // varies (xsave)
    return o.size == bytes ? nullptr : "size";
  }
  if (z.type == ZYDIS_OPERAND_TYPE_POINTER) {
    if (o.kind != K::kFar) return "kind";
    if (z.ptr.segment != i.immediate2) return "selector";
    return z.ptr.offset == (uint32_t(i.immediate) & (i.operand_size == 2 ? 0xffff : 0xffffffff)) ? nullptr : "offset";
  }
  if (o.kind != K::kImmediate && o.kind != K::kRelative) return "kind";
  const uint64_t ours = o.field == OperandField::kImplicit ? 1 : uint64_t(i.immediate);
  if (z.imm.value.u == ours) return nullptr;
  // Where nothing is extended, the bits beyond the operand do not matter.
  const unsigned width = i.operands[0].kind == K::kImmediate ? o.size : i.operands[0].size;
  if (o.kind == K::kRelative || i.immediate_size < width || width >= 8) return "immediate";
  const uint64_t mask = (1ull << 8 * width) - 1;
  return (z.imm.value.u & mask) == (ours & mask) ? nullptr : "immediate";
}

Comparison Judge::compare(const uint8_t* bytes, unsigned size, CodeMode mode) const {
  Insn i;
  const DecodeStatus status = decode(bytes, size, mode, i);
  ZydisDecodedInstruction zi;
  ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
  const ZyanStatus z = ZydisDecoderDecodeFull(&decoder[unsigned(mode)], bytes, size, &zi, zo);
  const bool ours = status == DecodeStatus::kOk, theirs = ZYAN_SUCCESS(z);
  const std::string our_name = ours ? zydis_name(i) : status == DecodeStatus::kInvalid ? "(invalid)" : status == DecodeStatus::kTruncated ? "(truncated)" : "(too long)";
  const std::string their_name = theirs ? ZydisMnemonicGetString(zi.mnemonic)
                                 : z == ZYDIS_STATUS_NO_MORE_DATA ? "(truncated)"
                                 : z == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ? "(too long)" : "(invalid)";
  const auto differ = [&](std::string what) { return Comparison{std::move(what), our_name, their_name, theirs ? std::string("isa:") + ZydisISASetGetString(zi.meta.isa_set) : ""}; };
  if (ours != theirs) {
    if (!ours && status != DecodeStatus::kInvalid) return differ("end");
    return differ("validity");
  }
  if (!ours) return {};
  if (i.length != zi.length) return differ("length");
  if (our_name != their_name) return differ("name");
  if (i.opcode != zi.opcode) return differ("opcode");
  const unsigned kMaps[] = {ZYDIS_OPCODE_MAP_DEFAULT, ZYDIS_OPCODE_MAP_0F, ZYDIS_OPCODE_MAP_0F38, ZYDIS_OPCODE_MAP_0F3A, ZYDIS_OPCODE_MAP_MAP5, ZYDIS_OPCODE_MAP_MAP6};
  if (zi.opcode_map != kMaps[unsigned(i.map)]) return differ("map");
  const unsigned kEncodings[] = {ZYDIS_INSTRUCTION_ENCODING_LEGACY, ZYDIS_INSTRUCTION_ENCODING_VEX, ZYDIS_INSTRUCTION_ENCODING_EVEX};
  if (zi.encoding != kEncodings[unsigned(i.encoding)]) return differ("encoding");
  if (std::memcmp(i.bytes, bytes, i.length) != 0) return differ("bytes");
  for (unsigned k = i.length; k < kMaxInsnLength; k++)
    if (i.bytes[k]) return differ("bytes after");

  // Fields.
  if (i.has_modrm != ((zi.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0)) return differ("has modrm");
  if (i.has_modrm && i.modrm != (zi.raw.modrm.mod << 6 | zi.raw.modrm.reg << 3 | zi.raw.modrm.rm)) return differ("modrm");
  if (i.has_sib != ((zi.attributes & ZYDIS_ATTRIB_HAS_SIB) != 0)) return differ("has sib");
  if (i.displacement_size * 8 != zi.raw.disp.size) return differ("displacement size");
  if (i.immediate_size * 8 != zi.raw.imm[0].size) {
    if (zi.attributes & ZYDIS_ATTRIB_HAS_MODRM || i.map != OpcodeMap::kOneByte || i.operands[0].kind != OperandKind::kFar) return differ("immediate size");
  }
  if (i.operands[0].kind != OperandKind::kFar) {
    if (i.immediate2_size * 8 != zi.raw.imm[1].size) return differ("second immediate size");
    if (i.immediate2_size && i.immediate2 != zi.raw.imm[1].value.u) return differ("second immediate");
  }
  if (i.address_size * 8 != zi.address_width) return differ("address size");
  if (i.encoding == Encoding::kLegacy) {
    if ((i.rex != 0) != (zi.raw.rex.W || zi.raw.rex.R || zi.raw.rex.X || zi.raw.rex.B || (zi.attributes & ZYDIS_ATTRIB_HAS_REX))) return differ("rex");
    if (i.w != zi.raw.rex.W) return differ("w");
  } else {
    if (i.vector_length * 8 != zi.avx.vector_length) return differ("vector length");
    if (i.opmask != (i.encoding == Encoding::kEvex ? ZydisRegisterGetId(zi.avx.mask.reg) < 0 ? 0 : ZydisRegisterGetId(zi.avx.mask.reg) : 0)) return differ("opmask");
  }
  if (i.lock != ((zi.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0)) return differ("lock");

  // Operands: theirs that can be seen, then the hidden general registers in any order.
  const bool x87_opcode = i.encoding == Encoding::kLegacy && i.map == OpcodeMap::kOneByte && i.opcode >= 0xD8 && i.opcode <= 0xDF;
  unsigned n = 0;
  uint32_t hidden_read = 0, hidden_written = 0;
  for (unsigned k = 0; k < zi.operand_count; k++) {
    const ZydisDecodedOperand& o = zo[k];
    if (o.encoding == ZYDIS_OPERAND_ENCODING_MASK) continue;
    const bool hidden = o.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
    if (hidden) {
      if (i.form == Form::kPlain && o.type == ZYDIS_OPERAND_TYPE_MEMORY) return differ("plain form with hidden memory");
      if (o.type == ZYDIS_OPERAND_TYPE_REGISTER) {
        const ZydisRegisterClass cls = ZydisRegisterGetClass(o.reg.value);
        if (cls == ZYDIS_REGCLASS_GPR8 || cls == ZYDIS_REGCLASS_GPR16 || cls == ZYDIS_REGCLASS_GPR32 || cls == ZYDIS_REGCLASS_GPR64) {
          unsigned id = unsigned(ZydisRegisterGetId(o.reg.value));
          if (o.reg.value == ZYDIS_REGISTER_AH) id = 0;
          if (access_of(o) & 1) hidden_read |= 1u << id;
          if (access_of(o) & 2) hidden_written |= 1u << id;
        } else if (i.form == Form::kPlain && cls != ZYDIS_REGCLASS_FLAGS && cls != ZYDIS_REGCLASS_X87 && cls != ZYDIS_REGCLASS_XMM && o.reg.value != ZYDIS_REGISTER_MXCSR &&
                   o.reg.value != ZYDIS_REGISTER_X87CONTROL && o.reg.value != ZYDIS_REGISTER_X87STATUS && o.reg.value != ZYDIS_REGISTER_X87TAG) {
          return differ(std::string("plain form with hidden ") + ZydisRegisterGetString(o.reg.value));
        }
      }
      continue;
    }
    // x87: Zydis and the manual list ST(0) differently; look for the operand anywhere.
    const bool x87 = o.type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(o.reg.value) == ZYDIS_REGCLASS_X87;
    unsigned at = n;
    if (x87_opcode) {
      for (at = 0; at < i.operand_count; at++)
        if (!compare_operand(i, i.operands[at], zi, o)) break;
      if (at == i.operand_count) return differ("x87 operand");
    } else {
      if (at >= i.operand_count) {
        if (o.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && i.immediate2_size) continue;  // compared as a field
        return differ("operand missing");
      }
      if (i.mnemonic == Mnemonic::kNop && o.type == ZYDIS_OPERAND_TYPE_REGISTER) continue;  // a hint looks at no register
      if (const char* d = compare_operand(i, i.operands[at], zi, o)) return differ("operand " + std::to_string(at) + " " + d);
      n++;
    }
    const unsigned a = access_of(o), b = unsigned(i.operands[at].access);
    if (!x87 && i.operands[at].access != OperandAccess::kNone) {
      if ((a & 2) != (b & 2)) return differ("operand " + std::to_string(at) + " written");
      if ((a & 1) && !(b & 1)) return differ("operand " + std::to_string(at) + " read");
    }
  }
  if ((i.form == Form::kPlain || i.form == Form::kString) && !x87_opcode) {
    uint32_t read = 0, written = 0;
    for (unsigned k = n; k < i.operand_count; k++) {
      if (i.operands[k].kind != OperandKind::kGpr) continue;
      if (unsigned(i.operands[k].access) & 1) read |= 1u << i.operands[k].reg;
      if (unsigned(i.operands[k].access) & 2) written |= 1u << i.operands[k].reg;
    }
    uint32_t stack = 1u << 4;  // rSP is not listed, nor a string's index registers and count
    if (i.form == Form::kString) stack |= 1u << 1 | 1u << 6 | 1u << 7;
    if ((hidden_written & ~stack) != (written & ~stack)) return differ("hidden registers written");
    if ((hidden_read & ~stack) & ~read) return differ("hidden registers read");
  }

  // Flags.
  if (i.form != Form::kSystem) {
    const uint32_t kMask = kStatusFlags | kDF;
    const ZydisAccessedFlags empty{};
    const ZydisAccessedFlags& f = zi.cpu_flags ? *zi.cpu_flags : empty;
    const uint32_t written = (f.modified | f.set_0 | f.set_1 | f.undefined) & kMask;
    // Zydis does not look at the count.
    const bool no_shift = i.immediate_size == 1 && (i.immediate & 31) == 0 && i.map == OpcodeMap::kOneByte && (i.opcode | 1) == 0xC1;
    const bool no_double_shift = i.immediate_size == 1 && (i.immediate & 31) == 0 && (i.mnemonic == Mnemonic::kShld || i.mnemonic == Mnemonic::kShrd);
    if ((f.tested & kMask) != (i.flags_read & kMask) && !no_shift) return differ("flags read");
    if (written != ((i.flags_written | i.flags_maybe) & kMask)) {
      if (!no_shift && !no_double_shift) return differ("flags written");
    }
  }
  return {};
}

// Does `name` fit `pattern`, where * stands for any text?
bool fits(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] != '*') return !name.empty() && pattern[0] == name[0] && fits(pattern.substr(1), name.substr(1));
  for (size_t i = 0; i <= name.size(); i++)
    if (fits(pattern.substr(1), name.substr(i))) return true;
  return false;
}

class Differences {
 public:
  void run(const Judge& judge, const uint8_t* bytes, unsigned size, CodeMode mode) {
    count_++;
    const Comparison c = judge.compare(bytes, size, mode);
    if (c.what.empty()) return;
    for (const Permitted& p : kPermitted) {
      if (p.what == c.what && fits(p.ours, c.ours) && (fits(p.theirs, c.theirs) || fits(p.theirs, c.isa))) {
        permitted_++;
        return;
      }
    }
    auto& entry = found_[c.what + ": ours " + c.ours + ", Zydis " + c.theirs + (c.what == "validity" ? " " + c.isa : "")];
    if (entry.first++ == 0 || entry.first == 7) entry.second += (mode == CodeMode::k16 ? "16: " : mode == CodeMode::k32 ? "32: " : "64: ") + hex(bytes, size) + "  ";
  }
  void report(const char* name) const {
    printf("%s: %zu encodings compared, %zu permitted differences\n", name, count_, permitted_);
    unsigned shown = 0;
    for (const auto& [what, entry] : found_) {
      if (++shown > 400) break;
      ADD_FAILURE() << what << " (" << entry.first << " times) " << entry.second;
    }
    EXPECT_GT(count_, 1000u);
  }

 private:
  size_t count_ = 0, permitted_ = 0;
  std::map<std::string, std::pair<size_t, std::string>> found_;
};

constexpr CodeMode kModes[] = {CodeMode::k16, CodeMode::k32, CodeMode::k64};
// What follows the modrm byte: a sib byte or displacement and immediate, none of it zero.
constexpr uint8_t kTail[] = {0x8D, 0x12, 0x23, 0x34, 0x45, 0x56, 0x67, 0x78, 0x19, 0x2A, 0x3B};

bool full() {
  const char* s = std::getenv("VIREO_DECODER_FULL");
  return s && *s == '1';
}

TEST(DecoderZydis, AgreesOnEveryLegacyOpcode) {
  const Judge judge;
  Differences differences;
  const uint8_t kPrefixes[] = {0, 0x66, 0xF3, 0xF2};
  for (CodeMode mode : kModes)
    for (unsigned map = 0; map < 4; map++)
      for (unsigned opcode = 0; opcode < 256; opcode++)
        for (unsigned prefix = 0; prefix < 8; prefix++)
          for (unsigned rex = 0; rex < (mode == CodeMode::k64 ? 5 : 1); rex++)
            for (unsigned extra = 0; extra < 3; extra++)
              for (unsigned modrm = 0; modrm < 256; modrm++) {
                if (extra && (modrm & 7) > 1) continue;
                uint8_t b[kMaxInsnLength];
                unsigned n = 0;
                if (extra == 1) b[n++] = 0xF0;
                if (extra == 2) b[n++] = 0x67;
                if (prefix & 4) b[n++] = 0x66;
                if (kPrefixes[prefix & 3]) b[n++] = kPrefixes[prefix & 3];
                const uint8_t kRex[] = {0, 0x48, 0x47, 0x40, 0x4F};
                if (rex) b[n++] = kRex[rex];
                if (map > 0) b[n++] = 0x0F;
                if (map > 1) b[n++] = map == 2 ? 0x38 : 0x3A;
                b[n++] = uint8_t(opcode);
                b[n++] = uint8_t(modrm);
                for (unsigned k = 0; n < kMaxInsnLength && k < sizeof kTail; k++) b[n++] = kTail[k];
                while (n < kMaxInsnLength) b[n++] = 0x11;
                differences.run(judge, b, n, mode);
              }
  differences.report("legacy");
}

// The modrm bytes VEX and EVEX are tried with: every modrm.reg, registers and some memory forms.
constexpr uint8_t kRms[] = {0xC0, 0xC1, 0xC4, 0xC6, 0x00, 0x04, 0x05, 0x43, 0x44, 0x84, 0x82};

TEST(DecoderZydis, AgreesOnEveryVexOpcode) {
  const Judge judge;
  Differences differences;
  uint32_t turn = 0;
  for (CodeMode mode : kModes)
    for (unsigned map = 1; map < 4; map++)
      for (unsigned opcode = 0; opcode < 256; opcode++)
        for (unsigned low = 0; low < 16; low++)  // W, L, pp
          for (unsigned reg = 0; reg < 8; reg++)
            for (uint8_t rm : kRms)
              for (unsigned vvvv = 0; vvvv < 4; vvvv++)
                for (unsigned ext = 0; ext < 3; ext++) {
                  if (!full() && (++turn % 4) != 0) continue;
                  const uint8_t kExt[] = {0xE0, 0x00, 0xA0};
                  if (mode != CodeMode::k64 && ext == 1) continue;
                  const uint8_t kVvvv[] = {15, 15, 13, 2};
                  uint8_t b[kMaxInsnLength] = {0xC4, uint8_t((mode == CodeMode::k64 ? kExt[ext] : ext ? 0xC0 : 0xE0) | map),
                                               uint8_t((low >> 3) << 7 | kVvvv[vvvv] << 3 | (low & 7)), uint8_t(opcode), uint8_t(rm | reg << 3)};
                  std::memcpy(b + 5, kTail, 10);
                  differences.run(judge, b, sizeof b, mode);
                  if (map == 1 && (low & 8) == 0 && ext == 0 && vvvv != 0) {
                    const uint8_t c[kMaxInsnLength] = {0xC5, uint8_t(0x80 | kVvvv[vvvv] << 3 | (low & 7)), uint8_t(opcode), uint8_t(rm | reg << 3), 0x8D, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
                    if (mode == CodeMode::k64 || c[1] >= 0xC0) differences.run(judge, c, sizeof c, mode);
                  }
                }
  differences.report("VEX");
}

TEST(DecoderZydis, AgreesOnEveryEvexOpcode) {
  const Judge judge;
  Differences differences;
  uint32_t turn = 0;
  for (CodeMode mode : kModes)
    for (unsigned map : {1u, 2u, 3u, 5u, 6u})
      for (unsigned opcode = 0; opcode < 256; opcode++)
        for (unsigned low = 0; low < 64; low++)  // b, W, L'L, pp
          for (unsigned reg = 0; reg < 8; reg++)
            for (uint8_t rm : kRms)
              for (unsigned mask = 0; mask < 4; mask++)
                for (unsigned vvvv = 0; vvvv < 3; vvvv++)
                  for (unsigned ext = 0; ext < 3; ext++) {
                    turn = turn * 1664525 + 1013904223;
                    if (!full() && (turn >> 16) % 100 != 0) continue;
                    const uint8_t kExt[] = {0xF0, 0x10, 0xA0};
                    const uint8_t kVvvv[] = {15, 13, 2}, kMask[] = {0, 3, 0x85, 0x80};
                    uint8_t b[kMaxInsnLength] = {0x62, uint8_t((mode == CodeMode::k64 ? kExt[ext] : ext == 2 ? 0xD0 : 0xF0) | map),
                                                 uint8_t((low >> 4 & 1) << 7 | kVvvv[vvvv] << 3 | 4 | (low & 3)),
                                                 uint8_t((low >> 5) << 4 | (low >> 2 & 3) << 5 | kMask[mask] | (ext == 2 ? 0 : 8)), uint8_t(opcode), uint8_t(rm | reg << 3)};
                    std::memcpy(b + 6, kTail, 9);
                    differences.run(judge, b, sizeof b, mode);
                  }
  differences.report("EVEX");
}

TEST(DecoderZydis, AgreesOnRandomBytes) {
  const char* s = std::getenv("VIREO_DECODER_RANDOM");
  const size_t count = s ? strtoull(s, nullptr, 0) : 300000;
  const char* seed_text = std::getenv("VIREO_DECODER_SEED");
  const uint64_t seed = seed_text ? strtoull(seed_text, nullptr, 0) : 1;
  printf("seed %" PRIu64 "\n", seed);
  std::mt19937_64 random(seed);
  const Judge judge;
  Differences differences;
  constexpr uint8_t kStarts[] = {0x66, 0xF2, 0xF3, 0x0F, 0x0F, 0xC4, 0xC5, 0x62, 0x62, 0x48, 0x2E, 0x65, 0x67, 0xF0, 0x4D, 0x40};
  for (size_t k = 0; k < count; k++) {
    uint8_t b[16];
    const uint64_t x = random(), y = random(), r = random();
    std::memcpy(b, &x, 8);
    std::memcpy(b + 8, &y, 8);
    // Uniform bytes are mostly one-byte opcodes: begin some with prefixes and escapes.
    for (unsigned n = 0; n < (r & 3); n++) b[n] = kStarts[r >> (8 + 4 * n) & 15];
    // One in eight ends early.
    const unsigned size = (r >> 32 & 7) == 0 ? 1 + (r >> 40) % 14 : 15;
    differences.run(judge, b, size, kModes[(r >> 50) % 3]);
  }
  differences.report("random");
}

}  // namespace
}  // namespace vireo::softkvm
