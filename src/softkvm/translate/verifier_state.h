// SPDX-License-Identifier: Apache-2.0
// What the verifier knows of the host's registers at one place of a block, and what an instruction makes of it. Blocks have no loops, so
// one pass in topological order is exact.
#pragma once

#include <cstdint>
#include <optional>

#include "softkvm/cpu/insn.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/verifier.h"

namespace vireo::softkvm {

struct Value {
  enum class Kind : uint8_t {
    kUndefined,
    kPlain,       // the guest's, or computed from that
    kConstant,    // `amount`
    kPageNumber,  // address >> 12, but for the upper 12 bits
    kTlbIndex,    // its low 16 bits
    kHigh,        // address >> 16
    kMixed,       // that xor the address
    kJumpIndex,   // the low 16 bits of that
    kJumpByte,    // 16 times that
    kBit,         // a bit's number, at most `amount`
    kTagged,      // address ^ TLB tag
    kHit,         // offset in the page, of an address whose tag matched
    kGroup,       // kHost, or 1
    kHost,        // host address of `amount` bytes
    kRecord,      // address of the call-out record at cache offset `amount`
  };
  Kind kind = Kind::kUndefined;
  uint8_t rights = 0;  // kTagged, kHit, kHost: kReadable | kWritable
  uint64_t id = 0;     // kPlain, kConstant: which value; kPageNumber to kHost: the linear address's value
  uint32_t amount = 0;
  uint32_t page = 0;   // kTagged, kHit: offset of the RecentPage whose tag it was, 0: a TLB entry's; kConstant: the upper half

  bool plain() const { return kind >= Kind::kPlain && kind <= Kind::kBit; }
  bool address() const { return kind == Kind::kPlain || kind == Kind::kConstant; }
  bool operator==(const Value&) const = default;
};
constexpr uint8_t kReadable = 1, kWritable = 2;

struct MachineState {
  Value reg[16];
  Value group[kGroupSlots];  // Engine::group
  // What the host's flags tell of the address `id`.
  enum class Compared : uint8_t { kNothing, kTag, kJump, kJumpEqual, kGroup } compared = Compared::kNothing;
  uint64_t compared_id = 0;
  uint32_t room = 0;         // kTag: bytes that the check was for
  bool after_callout = false;
  bool by_address = true;    // come in by the indirect entry: page_base may be set
};

// At the block's indirect entry: guest registers, and r11 the linear address.
MachineState entry_state();
// Also what holds at a place that two ways lead to; `at` names the place.
void join(MachineState& into, const MachineState& other, uint32_t at);

// A call of the stubs that link a jump, from which nothing comes back.
bool is_link_stub(const Insn& insn);

struct StepResult {
  MachineState next, taken;
  std::optional<uint32_t> record;  // a call-out record it refers to
};

class BlockRules {
 public:
  explicit BlockRules(const EmittedBlock& block);
  // The states behind the instruction at cache offset `at`, or the rule it breaks.
  std::expected<StepResult, Rule> step(const Insn& insn, uint32_t at, const MachineState& before) const;
  // Is this rel32 that of a jump which will be linked to other blocks?
  bool site(uint32_t rel32) const;
  // Is this the stub that one of them leads to until then?
  bool site_stub(uint32_t at) const;

 private:
  struct Step;
  const EmittedBlock& block_;
  bool stepping_;
  unsigned view_;
};

}  // namespace vireo::softkvm
