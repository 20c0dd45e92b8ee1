// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/random_block_count.h"

#include <cstring>
#include <ostream>
#include <set>

#include "softkvm/cpu/decode_tables.h"
#include "softkvm/cpu/decoder.h"
#include "softkvm/cpu/feature_enabled.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {

void BlockCount::add(const RandomBlock& block, size_t size, const BlockState& before, const BlockState& after) {
  blocks_++;
  vectors_[after.vector]++;
  const uint64_t end = after.rip - before.rip;  // the HLT, or what faulted
  if (end != size - 1) faults_++;
  if (end >= size) return;
  size_t at = 0;
  for (const Unit& u : block.units) {
    size_t length = 0;
    for (const Unit::Piece& p : u.pieces) length += p.bytes.size();
    const bool whole = at + length <= end;
    if (whole) {
      executed_ += u.pieces.size() - u.passed_over;
      drawn_++;  // one composed by hand counts as one too
      if (u.row) rows_[u.row]++;
      if (u.over_page_end) over_page_end_++;
    } else if (u.row) {  // straight code: what lies before the fault has been executed
      size_t next = at;
      for (const Unit::Piece& p : u.pieces)
        if ((next += p.bytes.size()) <= end) executed_++;
    }
    if (!whole) break;
    at += length;
  }
  x87_tags_ += before.area[4] != after.area[4];
  mxcsr_ += memcmp(before.area + 24, after.area + 24, 4) != 0;
  simd_ += memcmp(before.area + 160, after.area + 160, 256) != 0 || memcmp(before.area + 576, after.area + 576, layout().end - 576) != 0;
  flags_ += ((before.flags ^ after.flags) & kStatusFlags) != 0;
  memory_ += before.data != after.data;
}

std::vector<std::string> BlockCount::never_executed() const {
  std::vector<std::string> names;
  for (size_t i = 1; i <= decode_row_count(); i++)
    if (RandomBlock::may_draw(i, mode_) && !rows_.contains(i) && (kRows[i].feature == Feature{} || feature_enabled(vcpu_, kRows[i].feature)))
      names.push_back(mnemonic_name(kRows[i].mnemonic) + (" of row " + std::to_string(i)));
  return names;
}

void BlockCount::print(std::ostream& out) const {
  std::set<Mnemonic> mnemonics;
  for (auto [row, count] : rows_) mnemonics.insert(kRows[row].mnemonic);
  out << "executed " << executed_ << " instructions in " << blocks_ << " blocks, " << drawn_ << " drawn, the others give these their operands; "
      << rows_.size() << " rows of the decoder's tables, " << mnemonics.size() << " mnemonics\n"
      << "accesses aimed over a page's end: " << over_page_end_ << ", blocks that faulted before their end: " << faults_ << "\n"
      << "blocks that changed x87 tags: " << x87_tags_ << ", MXCSR: " << mxcsr_ << ", SIMD registers: " << simd_ << ", status flags: " << flags_
      << ", memory: " << memory_ << "\n";
  for (auto [vector, count] : vectors_) out << "ended by vector " << vector << ": " << count << "\n";
  out << "never executed to their end:";
  for (const std::string& name : never_executed()) out << " " << name << ";";
  out << "\n";
}

}  // namespace vireo::softkvm
