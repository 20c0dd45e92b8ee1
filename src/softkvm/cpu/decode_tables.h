// SPDX-License-Identifier: Apache-2.0
// All rows of the decode tables and the way from an encoding to its row: per map and opcode a slot, which says what besides the opcode
// chooses (prefix, modrm.mod, reg, rm, W, vector length, mode) and where the rows' numbers for every choice lie. Both are computed at compile time,
// where two rows that match one encoding are an error.
#pragma once

#include <cstddef>
#include <cstdint>

#include "softkvm/cpu/decode_row.h"
#include "softkvm/cpu/insn_shape.h"

namespace vireo::softkvm {

enum DecodeMap : uint8_t {
  kLegacyOneByte, kLegacy0F, kLegacy0F38, kLegacy0F3A, kVex0F, kVex0F38, kVex0F3A, kEvex0F, kEvex0F38, kEvex0F3A, kEvexMap5, kEvexMap6, kDecodeMaps,
};

// What chooses a row, in the order in which it enters the index.
enum Choice : uint8_t {
  kByPrefix = 1, kByMod = 2, kByReg = 4, kByRm = 8, kByW = 16, kByLength = 32, kByMode = 64,
  kHasModrm = 128,
};

struct OpcodeRows {
  uint16_t base = 0;     // into kRowNumbers
  uint8_t choices = 0;
};

struct OpcodeMaps {
  OpcodeRows at[kDecodeMaps][256] = {};
};

// A row as the decoder goes by it: one line of the host's cache. What is not VEX's or EVEX's only.
struct OperandPlan {
  OperandKind kind{};
  OperandAccess access{};
  OperandField field{};
  uint8_t reg = 0;              // where no field of the encoding names it
  bool high = false;            // ... and then
  uint8_t mask = 0;             // else how much counts of its number, which ...
  uint8_t source = 0;           // ... is this of those of the encoding (Source)
  Size size{};
};
// Beside the mask's bits, of which legacy encodings have four: is it a general register, and written?
constexpr uint8_t kPlanGpr = 0x40, kPlanWritten = 0x80;
static_assert(sizeof(OperandPlan) == 8 && offsetof(OperandPlan, high) == offsetof(Operand, high));  // the decoder makes one of the other
constexpr unsigned kPlanOperands = 3;  // rows with more: the others as the row says
struct alignas(64) RowPlan {
  Mnemonic mnemonic{};
  Form form{};
  uint8_t flags = 0;
  uint32_t attributes = 0;
  Feature feature{};
  ImmediateKind immediate{};
  uint8_t operand_count = 0;
  uint8_t prefixes = 0;                // of Row::match
  uint8_t logs = 0;                    // 64-bit mode's operand sizes, logarithms of two bits each: with neither, with W, with 66, with both
  uint8_t traits = 0;                  // InsnShape's
  int8_t memory[2] = {-1, -1};         // InsnShape's, as operands
  OperandPlan operands[2][kPlanOperands]{};  // by [has a modrm memory operand]
};
static_assert(sizeof(RowPlan) == 64);

#pragma GCC visibility push(hidden)  // the decoder knows at link time where they are
extern const OpcodeMaps& kOpcodeMaps;
extern const uint16_t* const kRowNumbers;
extern const Row* const kRows;  // row 0 is no instruction
extern const RowPlan* const kRowPlans;
#pragma GCC visibility pop

// For tests: how many rows there are (row 0 aside, they are 1 to the count) and the map of each.
size_t decode_row_count();
DecodeMap decode_row_map(size_t row);

}  // namespace vireo::softkvm
