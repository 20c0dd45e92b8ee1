// SPDX-License-Identifier: Apache-2.0
// Makes the record of a block for a file of translated code: the block is translated anew from the bytes that it was noted to be a function of,
// with nothing else in its page, and again with other numbers in the fields, to see that its code follows them. So what is stored does not depend on
// the state of a code cache, and a block whose code depends on anything else is not stored.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "softkvm/cpu/vcpu_state.h"
#include "softkvm/translate/stored_blocks.h"

namespace vireo::softkvm {

class RecordMaker {
 public:
  // `state` is of a vCPU that made the blocks, or made as those were: CPUID, vendor and Vm::off count. It has to live as long.
  explicit RecordMaker(const VcpuState& state) : state_(state), room_(2 * kBlockRoom) {}

  // A block as the translator gives it, at offset 0 of a code cache.
  struct Made {
    Block block{};
    BlockNotes notes;
    std::span<const uint8_t> code;
  };

  // The record's bytes, valid until the next call; empty: the block cannot be stored.
  std::span<const uint8_t> make(const MadeBlock& made);
  // Is the block that the last record was made of there, perhaps with other numbers in its fields?
  bool found_in(StoredBlocks& blocks, const MadeBlock& made) const;

 private:
  struct Candidate {
    uint16_t at;  // page offset
    uint16_t kind;
    uint32_t value;
    uint32_t delta = 0;
  };
  void lay_out(const MadeBlock& made);
  void find_candidates(const MadeBlock& made);
  void look_for_fields(const MadeBlock& made, const Made& first);
  bool whole_in_ranges(const MadeBlock& made, unsigned at) const;

  const VcpuState& state_;
  std::vector<uint8_t> room_, record_;
  uint8_t page_[4096];
  std::vector<Candidate> candidates_;
  std::vector<StoredField> fields_;
  std::vector<StoredPatch> patches_;
};

}  // namespace vireo::softkvm
