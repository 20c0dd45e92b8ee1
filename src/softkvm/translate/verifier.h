// SPDX-License-Identifier: Apache-2.0
// The block verifier: an emitted block decoded again, before it can run, and held against what the translator is permitted to emit. It
// shares nothing with the translator but the decoder and the vCPU's layout. Built everywhere, called where VIREO_VERIFY_BLOCKS is on;
// docs/engine.md tells what it proves.
#pragma once

#include <cstddef>
#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>

#include "softkvm/translate/block.h"
#include "softkvm/translate/translator.h"

namespace vireo::softkvm {

enum class Rule : uint8_t {
  kUndecodable,    // bytes that are no instruction
  kForbidden,      // an instruction that is not on the allow-list
  kPrefix,         // a prefix that the emitter never writes there
  kSlot,           // a GS-relative operand that is no slot, or not for this use
  kUnchecked,      // a memory operand that is not [register that holds a translated address]
  kTooWide,        // more bytes than the check was for
  kRights,         // a write through an address checked for reading, or the other way round
  kTlbIndex,       // a table read by another index than that of the address at hand, or the check's order is broken
  kRipRelative,    // RIP-relative other than LEA of a link site or of a call-out record
  kHostStack,      // names the host's RSP
  kHostAddress,    // a host address used as data, or left in a guest register
  kUndefined,      // reads a scratch register that holds nothing defined
  kTarget,         // a branch out of the block
  kBoundary,       // control flow into the middle of an instruction or a record
  kLoop,           // a loop inside of the block, where no poll stands
  kStub,           // a stub entered with other registers than it takes
  kRecord,         // a call-out record that is none
  kRunsOff,        // control flow runs off the block's end
  kUnreached,      // bytes that no control flow reaches
  kSideTable,      // an instruction that may fault without its entry in the side table, or an entry inside of an instruction
  kLinkSite,       // a patchable jump that is no aligned rel32 of a jump, or does not go to its stub
  kEntry,          // an entry point outside of the block, or in the wrong order
  kLink,           // a jump patched to something else than a block of the same page and mode, at its linked entry
};
const char* rule_text(Rule rule);

struct Violation {
  Rule rule;
  uint32_t at;  // cache offset
};

struct EmittedBlock {
  const uint8_t* code;
  size_t size;
  uint32_t offset;  // of `code` in the cache
  uint32_t indirect_entry;
  std::array<uint32_t, 3> linked_entry;  // by FlagsIn
  uint32_t mode;
  uint64_t gpa;
  std::span<const SideEntry> side;
  std::span<const LinkSite> sites;
};

// The number of host instructions, or what is wrong.
std::expected<unsigned, Violation> verify_block(const EmittedBlock& block);

// May the rel32 at cache offset `at`, in `from`, be made to go to `destination`? `target`: the block linked to, null to unlink.
std::optional<Violation> verify_link(const uint8_t* cache, uint32_t at, const Block* from, const Block* target, uint32_t destination,
                                     const LinkSite& site);

// One line: guest address, rule, place and host bytes.
std::string describe(const EmittedBlock& block, const Violation& violation);

}  // namespace vireo::softkvm
