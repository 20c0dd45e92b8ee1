// SPDX-License-Identifier: Apache-2.0
// One row of the decode tables: which encodings it matches, and what they are. The tables (decode_tables_*.h, named after the opcode maps)
// are written with the words of decode_words.h. Spec: Intel SDM vol 2, chapter 2 and appendix A.
#pragma once

#include <cstddef>
#include <cstdint>

#include "softkvm/cpu/feature.h"
#include "softkvm/cpu/insn.h"

namespace vireo::softkvm {

// Which encodings a row matches. A field of zero bits means "any"; a mask lists the values that match.
namespace match {
constexpr uint32_t kOpcode = 0xff;
constexpr unsigned kPrefixShift = 8;    // 4 bits: none, 66, F3, F2 (for VEX and EVEX: pp)
constexpr unsigned kModShift = 12;      // 2 bits: memory, register
constexpr unsigned kWShift = 14;        // 2 bits
constexpr unsigned kLengthShift = 16;   // 4 bits: 128, 256, 512, reserved
constexpr unsigned kModeShift = 20;     // 2 bits: 16- and 32-bit, 64-bit
constexpr uint32_t kHasReg = 1u << 22;  // modrm.reg is the value in
constexpr unsigned kRegShift = 23;
constexpr uint32_t kHasRm = 1u << 26;   // modrm.rm is the value in
constexpr unsigned kRmShift = 27;
constexpr uint32_t kSpread8 = 1u << 30;   // the row stands for this opcode and the next 7
constexpr uint32_t kSpread16 = 2u << 30;  // and the next 15
}  // namespace match

enum class OperandClass : uint8_t {
  kNone, kE, kM, kR, kG, kB, kZ, kFixed, kAccumulator, kSegment, kFixedSegment, kControl, kDebug, kP, kQ, kN, kV, kW, kU, kH, kL,
  kFixedVector, kMaskG, kMaskE, kMaskR, kMaskH, kSt0, kSti, kVsib, kImmediate, kOne, kRelative, kFar, kMoffs, kX, kY, kCount,
};

// Operand sizes; those from kV on depend on the operand size, the mode or the vector length.
enum class Size : uint8_t {
  k0, k1, k2, k4, k6, k8, k10, k14, k16, k28, k32, k48, k64, k94, k108, k512,
  kV, kZ, kY, kP, kA, kS, kMode, kEnv, kSave,
  kX, kHalf, kQuarter, kEighth, kCount,
};

struct OperandSpec {
  OperandClass cls = OperandClass::kNone;
  Size size = Size::k0;
  OperandAccess access = OperandAccess::kRead;
  uint8_t reg = 0;
};

enum class ImmediateKind : uint8_t { kNone, kByte, kSignedByte, kWord, kZ, kV, kRelativeByte, kRelativeZ, kFar, kEnter, kBytes, kMoffs };

enum Attribute : uint32_t {
  kLock = 1u << 0,            // may be LOCKed with a memory destination
  kDefault64 = 1u << 1,       // 64-bit operand size by default in 64-bit mode (66 makes it 16)
  kForce64 = 1u << 2,         // 64-bit operand size always in 64-bit mode
  kCondition = 1u << 3,       // flags read follow opcode & 15
  kShiftCount = 1u << 4,      // an immediate count of zero leaves the flags alone
  kSpecialMemory = 1u << 5,   // with a memory operand: Form::kSpecial
  kModIgnored = 1u << 6,      // modrm.mod is taken as 3
  kAddressSized = 1u << 7,    // operand 0 is a register of address size
  kAvx2If256 = 1u << 8,       // VEX.256 needs AVX2
  kRepeat = 1u << 9,          // REP makes the flags written maybe written
  kRounding = 1u << 10,       // EVEX.b with registers: static rounding
  kSae = 1u << 11,            // EVEX.b with registers: suppress all exceptions
  kBroadcast2 = 1u << 12,     // EVEX.b with memory: one element is broadcast
  kBroadcast4 = 2u << 12,
  kBroadcast8 = 3u << 12,
  kBroadcastBits = 3u << 12,
  kMask = 1u << 14,           // EVEX.aaa may be given: merging
  kMaskZero = 2u << 14,       // merging or zeroing
  kMaskNeeded = 3u << 14,     // must be given, merging (gather, scatter)
  kMaskBits = 3u << 14,
  kScale1 = 1u << 16,         // disp8 is scaled by the element, not the memory operand's size
  kScale2 = 2u << 16,
  kScale4 = 3u << 16,
  kScale8 = 4u << 16,
  kScaleBits = 7u << 16,
  kScalar = 1u << 19,         // EVEX: vector length ignored, no AVX512VL
  kModrm = 1u << 20,          // derived: has a modrm byte
  kUsesVvvv = 1u << 21,       // derived
  kIs4 = 1u << 22,            // derived: a register in the immediate's high half
  kNo16 = 1u << 23,           // 66 does not make the operand size 16
  kNoRep = 1u << 24,          // #UD with F2 or F3 (where no mandatory prefix is looked at)
  kDistinct = 1u << 25,       // destination must differ from the sources (gathers, FP16 complex multiplication)
  kNo16Mode = 1u << 26,       // #UD with 16-bit addressing (VSIB)
  kNoRip = 1u << 27,          // #UD with RIP-relative addressing
  kLegalRegister = 1u << 28,  // derived: names a segment, control or debug register, of which some are #UD
};

// What an instruction does to EFLAGS.
struct FlagEffect {
  uint32_t read = 0, written = 0, maybe = 0;
};

constexpr unsigned kRowOperands = kMaxOperands;

struct Row {
  uint32_t match = 0;
  uint32_t attributes = 0;
  Mnemonic mnemonic{};
  Form form{};
  Feature feature{};
  uint8_t flags = 0;  // index into kFlagEffects
  ImmediateKind immediate{};
  uint8_t operand_count = 0;
  OperandSpec operands[kRowOperands]{};
};

}  // namespace vireo::softkvm
