// SPDX-License-Identifier: Apache-2.0
// For tests: random blocks of instructions drawn from the decoder's own tables. A block is a list of units; a unit is one instruction with
// the moves before it that give its memory operand a known address, so that the same block may run on the bare CPU in this process.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "softkvm/cpu/insn.h"

namespace vireo::softkvm {

class Vcpu;

// The guest's linear addresses, the same in the test's process.
struct BlockSpace {
  static constexpr uint64_t kCode = 0x100000;           // two pages
  static constexpr uint64_t kData = 0x300000;           // kPages pages; which of them are there, kind() says
  static constexpr unsigned kPages = 16;
  static constexpr uint64_t kGsBase = 0x2f0000;
  enum class Kind { kWritable, kReadOnly, kAbsent };
  static Kind kind(unsigned page) {
    return page == 6 || page == 10 || page == 15 || page == 0 ? Kind::kAbsent : page == 8 || page == 9 ? Kind::kReadOnly : Kind::kWritable;
  }
  static constexpr uint64_t kStack = kData + 12 * 4096 + 2048;
};

struct Unit {
  struct Piece {
    std::vector<uint8_t> bytes;
    int rip_at = -1;              // where its displacement relative to RIP is
    uint64_t rip_target = 0;
  };
  std::vector<Piece> pieces;
  std::string name;
  size_t row = 0;                 // of the decoder's tables; 0: composed by hand
  unsigned passed_over = 0;       // how many of its instructions a jump may leave out
  bool over_page_end = false;     // an access of it was aimed over the end of a page
};

class RandomBlock {
 public:
  // Of 64-bit code, of 32-bit code on flat segments, or of 16-bit code in a segment that starts at kCode, on flat data segments.
  RandomBlock(uint64_t seed, const Vcpu& vcpu, CodeMode mode = CodeMode::k64);
  std::vector<Unit> units;
  unsigned offset;                // in the code page
  std::vector<uint8_t> assemble() const;
  uint32_t undefined_flags() const;  // not to be compared at the end
  static bool may_draw(size_t row, CodeMode mode);  // of the decoder's tables, on a CPU that has it

 private:
  using Rng = std::mt19937_64;
  bool instruction(Unit& unit);
  bool place_memory(Unit& unit, Insn& insn, std::vector<uint8_t>& bytes);
  void give_mxcsr(Unit& unit, const Insn& insn, const std::vector<uint8_t>& bytes);
  void composed(Unit& unit);
  void composed_narrow(Unit& unit);
  void several_accesses(Unit& unit);
  void move(Unit& unit, unsigned reg, uint64_t value);
  uint64_t address(unsigned size, bool& faults);
  uint64_t pick(uint64_t n) { return rng_() % n; }
  bool chance(unsigned percent) { return pick(100) < percent; }

  const Vcpu* vcpu_;
  CodeMode mode_;
  bool long_;
  Rng rng_;
  uint32_t tainted_ = 0;
  bool over_page_end_ = false, upper_half_undefined_ = false;
};

// Flags that the manual leaves undefined after an instruction.
uint32_t undefined_flags_of(const Insn& insn);

}  // namespace vireo::softkvm
