// SPDX-License-Identifier: Apache-2.0
// Joins the tables of the opcode maps and computes the slots.
#include "softkvm/cpu/decode_tables.h"

#include <initializer_list>

#include "softkvm/cpu/decode_pieces.h"
#include "softkvm/cpu/decode_tables_0f.h"
#include "softkvm/cpu/decode_tables_0f38.h"
#include "softkvm/cpu/decode_tables_0f3a.h"
#include "softkvm/cpu/decode_tables_evex.h"
#include "softkvm/cpu/decode_tables_one_byte.h"
#include "softkvm/cpu/decode_tables_vex.h"
#include "softkvm/cpu/decode_tables_x87.h"

namespace vireo::softkvm {
namespace {

// Not std::array: clang refuses its headers without floating point registers.
template <class T, size_t N>
struct Table {
  T at[N] = {};
};

struct Part {
  DecodeMap map;
  const Row* rows;
  size_t count;
};
template <size_t N>
constexpr Part part(DecodeMap map, const Row (&rows)[N]) {
  return {map, rows, N};
}

constexpr Part kParts[] = {
    part(kLegacyOneByte, tables::kOneByte), part(kLegacyOneByte, tables::kX87),     part(kLegacy0F, tables::kTwoByte),
    part(kLegacy0F38, tables::k0F38),       part(kLegacy0F3A, tables::k0F3A),       part(kVex0F, tables::kVexMap1),
    part(kVex0F38, tables::kVexMap2),       part(kVex0F3A, tables::kVexMap3),       part(kEvex0F, tables::kEvexMap1Rows),
    part(kEvex0F38, tables::kEvexMap2Rows), part(kEvex0F3A, tables::kEvexMap3Rows), part(kEvexMap5, tables::kEvexMap5Rows),
    part(kEvexMap6, tables::kEvexMap6Rows),
};

constexpr size_t count_rows() {
  size_t n = 1;
  for (const Part& p : kParts) n += p.count;
  return n;
}

constexpr auto join_rows() {
  Table<Row, count_rows()> rows{};
  size_t n = 1;
  for (const Part& p : kParts)
    for (size_t i = 0; i < p.count; i++) rows.at[n++] = p.rows[i];
  return rows;
}

constexpr unsigned choices_of(const Row& r) {
  unsigned c = 0;
  if (r.match >> match::kPrefixShift & 15) c |= kByPrefix;
  if (r.match >> match::kModShift & 3) c |= kByMod;
  if (r.match & match::kHasReg) c |= kByReg;
  if (r.match & match::kHasRm) c |= kByRm;
  if (r.match >> match::kWShift & 3) c |= kByW;
  if (r.match >> match::kLengthShift & 15) c |= kByLength;
  if (r.match >> match::kModeShift & 3) c |= kByMode;
  if (r.attributes & kModrm) c |= kHasModrm;
  return c;
}

constexpr unsigned numbers_of(unsigned choices) {
  unsigned n = 1;
  if (choices & kByPrefix) n *= 4;
  if (choices & kByMod) n *= 2;
  if (choices & kByReg) n *= 8;
  if (choices & kByRm) n *= 8;
  if (choices & kByW) n *= 2;
  if (choices & kByLength) n *= 4;
  if (choices & kByMode) n *= 2;
  return n;
}

constexpr unsigned spread_of(const Row& r) { return r.match & match::kSpread16 ? 16 : r.match & match::kSpread8 ? 8 : 1; }

struct Layout {
  OpcodeMaps maps{};
  size_t numbers = 1;  // number 0 is row 0: what an empty slot's index 0 finds
};

constexpr Layout lay_out() {
  Layout l;
  bool used[kDecodeMaps][256] = {};
  for (const Part& p : kParts)
    for (size_t i = 0; i < p.count; i++)
      for (unsigned k = 0; k < spread_of(p.rows[i]); k++) {
        const unsigned opcode = (p.rows[i].match + k) & match::kOpcode;
        l.maps.at[p.map][opcode].choices |= choices_of(p.rows[i]);
        used[p.map][opcode] = true;
      }
  for (unsigned m = 0; m < kDecodeMaps; m++)
    for (unsigned i = 0; i < 256; i++)
      if (used[m][i]) {
        l.maps.at[m][i].base = uint16_t(l.numbers);
        l.numbers += numbers_of(l.maps.at[m][i].choices);
      }
  return l;
}
constexpr Layout kLayout = lay_out();
static_assert(kLayout.numbers < 65536);

constexpr bool matches(uint32_t m, unsigned choices, unsigned index) {
  // The index was built choice by choice, the last one in the lowest bits.
  const auto take = [&](unsigned bits) { const unsigned v = index & ((1u << bits) - 1); index >>= bits; return v; };
  const auto in = [](unsigned mask, unsigned v) { return !mask || (mask >> v & 1); };
  if (choices & kByMode && !in(m >> match::kModeShift & 3, take(1))) return false;
  if (choices & kByLength && !in(m >> match::kLengthShift & 15, take(2))) return false;
  if (choices & kByW && !in(m >> match::kWShift & 3, take(1))) return false;
  if (choices & kByRm) {
    const unsigned v = take(3);
    if (m & match::kHasRm && (m >> match::kRmShift & 7) != v) return false;
  }
  if (choices & kByReg) {
    const unsigned v = take(3);
    if (m & match::kHasReg && (m >> match::kRegShift & 7) != v) return false;
  }
  if (choices & kByMod && !in(m >> match::kModShift & 3, take(1))) return false;
  if (choices & kByPrefix && !in(m >> match::kPrefixShift & 15, take(2))) return false;
  return true;
}

struct Numbers {
  uint16_t at[kLayout.numbers] = {};
  unsigned clash_map = 0, clash_opcode = 0;  // where two rows match one encoding
  unsigned modrm_map = 0, modrm_opcode = 0;  // where rows differ about the modrm byte
};

constexpr Numbers number_rows() {
  Numbers n;
  uint16_t row = 0;
  for (const Part& p : kParts)
    for (size_t i = 0; i < p.count; i++) {
      row++;
      const Row& r = p.rows[i];
      for (unsigned k = 0; k < spread_of(r); k++) {
        const unsigned opcode = (r.match + k) & match::kOpcode;
        const OpcodeRows s = kLayout.maps.at[p.map][opcode];
        if (s.choices & kHasModrm && !(r.attributes & kModrm)) n.modrm_map = p.map, n.modrm_opcode = opcode | 0x100;
        const unsigned end = numbers_of(s.choices);
        for (unsigned j = 0; j < end; j++) {
          if (!matches(r.match, s.choices, j)) continue;
          uint16_t& at = n.at[s.base + j];
          if (at && !n.clash_opcode) n.clash_map = p.map, n.clash_opcode = opcode | 0x100;
          at = row;
        }
      }
    }
  return n;
}
constexpr Numbers kNumbers = number_rows();
static_assert(kNumbers.clash_map == 0, "two rows match one encoding (the value is the DecodeMap)");
static_assert(kNumbers.clash_opcode == 0, "two rows match one encoding (the value is 0x100 + opcode)");
static_assert(kNumbers.modrm_map == 0, "rows of one opcode differ about the modrm byte (the value is the DecodeMap)");
static_assert(kNumbers.modrm_opcode == 0, "rows of one opcode differ about the modrm byte (the value is 0x100 + opcode)");

constexpr auto kJoinedRows = join_rows();

constexpr OperandPlan plan_operand(const OperandSpec& spec, bool is_memory) {
  const ClassInfo& info = kClasses.at[unsigned(spec.cls)];
  const bool memory = is_memory && info.memory != OperandKind::kNone;
  OperandPlan p{.kind = memory ? info.memory : info.kind, .access = spec.access, .field = info.field};
  p.size = memory && spec.access == OperandAccess::kNone ? Size::k0 : spec.size;
  if (memory) return p;
  if (info.source == kFromSpec) {
    p.reg = spec.reg & info.mask;
    p.high = info.kind == OperandKind::kGpr && spec.size == Size::k1 && p.reg - 4u < 4;
    if (p.high) p.reg -= 4;
  } else {
    p.source = info.source;
    p.mask = info.mask & 15;
  }
  if (info.kind == OperandKind::kGpr) p.mask |= kPlanGpr | (unsigned(spec.access) & 2 ? kPlanWritten : 0);
  return p;
}

constexpr RowPlan plan_row(const Row& r) {
  RowPlan p;
  p.mnemonic = r.mnemonic;
  p.form = r.form;
  p.flags = r.flags;
  p.attributes = r.attributes;
  p.feature = r.feature;
  p.immediate = r.immediate;
  p.operand_count = r.operand_count;
  p.prefixes = uint8_t(r.match >> match::kPrefixShift & 15);
  for (unsigned i = 0; i < 4; i++) {
    const bool w = i & 1, opsize = i & 2 && p.prefixes != 2;  // a 66 that chose the row is no operand size prefix
    const unsigned log = w || r.attributes & kForce64 ? 3 : opsize ? 1 : r.attributes & kDefault64 ? 3 : 2;
    p.logs |= uint8_t(log << 2 * i);
  }
  OperandKind kinds[kRowOperands] = {};
  for (unsigned i = 0; i < r.operand_count && i < kPlanOperands; i++)
    for (bool memory : {false, true}) {
      p.operands[memory][i] = plan_operand(r.operands[i], memory);
      kinds[i] = p.operands[memory][i].kind;
      if (kinds[i] == OperandKind::kMemory) p.memory[memory] = int8_t(i);
    }
  p.traits = traits_of(r.mnemonic, r.feature != Feature::kNone, Encoding::kLegacy, kinds, r.operand_count);
  return p;
}

constexpr auto kPlans = [] {
  Table<RowPlan, count_rows()> plans{};
  for (size_t i = 0; i < count_rows(); i++) plans.at[i] = plan_row(kJoinedRows.at[i]);
  return plans;
}();

// What InsnShape and the translator's checks of memory rely on.
constexpr bool relied_on() {
  for (size_t i = 1; i < count_rows(); i++) {
    const Row& r = kJoinedRows.at[i];
    unsigned memory = 0;
    for (unsigned k = 0; k < r.operand_count; k++) memory += kClasses.at[unsigned(r.operands[k].cls)].memory == OperandKind::kMemory;
    bool featured = r.feature != Feature::kNone;
    for (unsigned k = 0; k < r.operand_count && !featured; k++)
      for (OperandKind kind : {OperandKind::kX87, OperandKind::kMmx, OperandKind::kVector, OperandKind::kMask})
        if (kClasses.at[unsigned(r.operands[k].cls)].kind == kind) return false;
    if (memory > 1) return false;
  }
  for (const Row& r : tables::kX87)
    if (r.feature == Feature::kNone) return false;
  return true;
}
static_assert(relied_on(), "a row has two memory operands, or an instruction of x87 or vectors needs no feature");

}  // namespace

const OpcodeMaps& kOpcodeMaps = kLayout.maps;
const uint16_t* const kRowNumbers = kNumbers.at;
const Row* const kRows = kJoinedRows.at;
const RowPlan* const kRowPlans = kPlans.at;

size_t decode_row_count() { return count_rows() - 1; }

DecodeMap decode_row_map(size_t row) {
  size_t n = 1;
  for (const Part& p : kParts) {
    if (row < n + p.count) return p.map;
    n += p.count;
  }
  return kDecodeMaps;
}

}  // namespace vireo::softkvm
