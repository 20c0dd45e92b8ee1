// SPDX-License-Identifier: Apache-2.0
// One decoded x86 instruction: what the decoder gives, what the translator, the system-instruction call-outs and the block
// verifier read. Plain data, no pointers but to static tables. Spec: Intel SDM vol 2, chapter 2 and appendix A; AMD APM vol 3.
#pragma once

#include <cstddef>
#include <cstdint>

#include "softkvm/cpu/mnemonic.h"

namespace vireo::softkvm {

// The code segment's width: CS.L / CS.D.
enum class CodeMode : uint8_t { k16, k32, k64 };

enum class Encoding : uint8_t { kLegacy, kVex, kEvex };
enum class OpcodeMap : uint8_t { kOneByte, k0F, k0F38, k0F3A, kMap5, kMap6 };

// What the translator may do with an encoding. The default is never a copy.
enum class Form : uint8_t {
  kPlain,    // allow-listed: same bytes with registers renamed; at most one explicit memory operand (modrm)
  kStack,    // push, pop, pusha, enter, leave, pushf, popf
  kBranch,   // jmp, jcc, call, ret, loop, jcxz: near control flow
  kString,   // movs, stos, lods, scas, cmps, ins, outs with their REP forms
  kSpecial,  // addresses that are many or implicit: xlat, maskmov, gather, scatter, bt* with a register offset on memory, xsave*...
  kSystem,   // by name: privileged or looks plain but is not (softkvm.md): far transfers, segment loads, cpuid, in/out, rdtsc ...
};

enum class OperandKind : uint8_t {
  kNone,
  kGpr,        // general register `reg` (0-15); size 1 with `high` set: AH CH DH BH, reg 0-3
  kMemory,     // the modrm memory operand (address fields of Insn); size in bytes, 0 where it is only an address (lea, invlpg) or varies
  kVectorMemory,  // VSIB: gather, scatter
  kString,     // implicit memory at rSI (reg 6) or rDI (reg 7)
  kMoffs,      // memory at the absolute offset Insn::displacement (A0-A3)
  kSegment,    // segment register `reg`: ES CS SS DS FS GS
  kControl, kDebug,
  kX87,        // st(reg)
  kMmx, kVector, kMask,  // vector: xmm/ymm/zmm `reg` (0-31), size 16/32/64 or the part used
  kImmediate,  // Insn::immediate, sign- or zero-extended as the instruction does
  kRelative,   // branch displacement in Insn::immediate, relative to the next instruction
  kFar,        // ptr16:16 / ptr16:32: selector in Insn::immediate2, offset in Insn::immediate
};

enum class OperandAccess : uint8_t { kNone = 0, kRead = 1, kWrite = 2, kReadWrite = 3 };

// Where in the encoding the register of an operand is: what the translator rewrites when it renames.
enum class OperandField : uint8_t { kNone, kModrmReg, kModrmRm, kVvvv, kOpcodeLow3, kIs4, kImplicit };

struct Operand {
  OperandKind kind = OperandKind::kNone;
  OperandAccess access = OperandAccess::kNone;
  OperandField field = OperandField::kNone;
  uint8_t reg = 0;
  bool high = false;
  uint16_t size = 0;  // bytes
};

// EFLAGS bits as the manuals number them.
constexpr uint32_t kCF = 1u << 0, kPF = 1u << 2, kAF = 1u << 4, kZF = 1u << 6, kSF = 1u << 7, kTF = 1u << 8, kIF = 1u << 9,
                   kDF = 1u << 10, kOF = 1u << 11, kIOPL = 3u << 12, kNT = 1u << 14, kRF = 1u << 16, kVM = 1u << 17,
                   kAC = 1u << 18, kVIF = 1u << 19, kVIP = 1u << 20, kID = 1u << 21;
constexpr uint32_t kStatusFlags = kCF | kPF | kAF | kZF | kSF | kOF;

constexpr uint8_t kNoRegister = 0xff;
enum SegmentRegister : uint8_t { kES, kCS, kSS, kDS, kFS, kGS };

constexpr unsigned kMaxOperands = 6;  // pcmpestri: three and EAX EDX ECX
constexpr unsigned kMaxInsnLength = 15;

struct Insn {
  Mnemonic mnemonic{};
  Form form{};
  Encoding encoding{};
  OpcodeMap map{};
  CodeMode mode{};
  uint8_t length = 0;          // bytes, all prefixes included, 1-15
  uint8_t opcode = 0;          // the opcode byte within the map
  uint8_t bytes[kMaxInsnLength]{};  // the instruction itself

  // Legacy prefixes. For VEX/EVEX these hold the implied ones (pp): rep/repne/opsize as mandatory prefix.
  bool lock = false, rep = false /*F3*/, repne = false /*F2*/, opsize = false /*66*/, addrsize = false /*67*/;
  bool mandatory_prefix = false;  // F3/F2/66 (the one the map uses) selects the instruction and is no REP or operand size
  uint8_t segment_prefix = kNoRegister;  // ES..GS as given (in 64-bit mode ES CS SS DS are given but ignored: kNoRegister)
  uint8_t rex = 0;             // the REX byte, or 0
  bool w = false;              // REX.W / VEX.W / EVEX.W

  bool has_modrm = false, has_sib = false;
  uint8_t modrm = 0, sib = 0;
  uint8_t reg = 0;             // modrm.reg with all its extensions (0-31)
  uint8_t rm = 0;              // modrm.rm with extensions, meaningful where mod = 3
  uint8_t vvvv = 0;            // with V' (0-31), uninverted
  uint8_t vector_length = 0;   // bytes: 16, 32, 64; 0 for legacy
  uint8_t opmask = 0;          // EVEX.aaa
  bool zeroing = false;        // EVEX.z
  bool evex_b = false;         // broadcast, or rounding/SAE for registers

  // The memory operand's address, had from modrm/sib: segment:[base + index * scale + displacement].
  uint8_t base = kNoRegister;   // 0-15
  uint8_t index = kNoRegister;  // 0-15 (VSIB: vector register 0-31)
  uint8_t scale = 1;            // 1 2 4 8
  bool rip_relative = false;
  uint8_t segment = kDS;        // the effective segment register: prefix, else SS for bases rSP/rBP, else DS
  int64_t displacement = 0;     // sign-extended; EVEX disp8 already scaled; moffs
  uint8_t displacement_size = 0;  // bytes in the encoding

  uint8_t immediate_size = 0;   // bytes in the encoding: 0 1 2 4 8
  uint8_t immediate2_size = 0;  // enter's second, far pointers' selector
  int64_t immediate = 0;
  uint16_t immediate2 = 0;

  uint8_t operand_size = 0;     // effective, bytes: 2 4 8 (1-byte forms have their operands' sizes say so)
  uint8_t address_size = 0;     // effective, bytes: 2 4 8
  uint8_t operand_count = 0;
  Operand operands[kMaxOperands]{};  // explicit ones first, in Intel order; then implicit registers
                                      // (not rSP and the stack, nor the index and count registers of string instructions)

  uint32_t flags_read = 0;      // status flags (and DF) it may read
  uint32_t flags_written = 0;   // status flags it sets, clears or leaves undefined on every path (for liveness: these are dead before it)
  uint32_t flags_maybe = 0;     // written on some path only (shifts by CL with count 0, rep scas with rCX = 0)
  uint16_t feature = 0;         // Feature of feature.h it needs, 0 for none

  const Operand* memory_operand() const {  // the explicit modrm memory operand, or null
    for (unsigned i = 0; i < operand_count; i++)
      if (operands[i].kind == OperandKind::kMemory) return &operands[i];
    return nullptr;
  }
};

}  // namespace vireo::softkvm
