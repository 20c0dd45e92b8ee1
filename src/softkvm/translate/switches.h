// SPDX-License-Identifier: Apache-2.0
// Optimisations that can be turned off, for finding out whose fault something is: VIREO_SOFTKVM_OFF=name,name in the environment, read
// when a VM is created. docs/engine.md tells what each does. Asked where a block is made, where an entry is filled or flushed, and in C++
// that is called anyway: never on a fast path.
#pragma once

#include <cstdint>
#include <span>

namespace vireo::softkvm {

enum Switch : uint32_t {
  kSwitchFastBlocks = 1u << 0,
  kSwitchDirectJumps = 1u << 1,
  kSwitchQuickStubs = 1u << 2,
  kSwitchTlbAccess = 1u << 3,
  kSwitchLinks = 1u << 4,
  kSwitchJumpCache = 1u << 5,
  kSwitchRecentPages = 1u << 6,
  kSwitchInlineTlb = 1u << 7,
  kSwitchDeadFlags = 1u << 8,
  kSwitchHostFlags = 1u << 9,
  kSwitchLongBlocks = 1u << 10,
  kSwitchInlineStack = 1u << 11,
  kSwitchStringStubs = 1u << 12,
  kSwitchBulkStrings = 1u << 13,
  kSwitchGlobalPages = 1u << 14,
  kSwitchFillLog = 1u << 15,
  kSwitchNative = 1u << 16,
  kSwitchFetchCache = 1u << 17,
  kSwitchInvlpgFilter = 1u << 18,
  kSwitchCodeChunks = 1u << 19,
  kSwitchDoubtedJumps = 1u << 20,
  kSwitchEarlyWriteTags = 1u << 21,
  kSwitchLargePages = 1u << 22,
  kSwitchKeptJumps = 1u << 23,
  kSwitchQuickMisses = 1u << 24,
  kSwitchBitStrings = 1u << 25,
  kSwitchGroupedChecks = 1u << 26,
  kSwitchStoredCode = 1u << 27,
  kSwitchRorx = 1u << 28,
  kSwitchKnownAreas = 1u << 29,
  kSwitchKeptPages = 1u << 30,
  kSwitchSettledDoubts = 1u << 31,
};

// The names, in the order in which docs/engine.md tells of them.
struct SwitchName {
  const char* name;
  Switch bit;
};
extern const std::span<const SwitchName> kSwitchNames;

// The switches named in a list such as VIREO_SOFTKVM_OFF's; `unknown` gets the first name that is none (or is left as it is).
uint32_t parse_switches(const char* list, const char** unknown, unsigned* unknown_length);
// Those of the environment, with a warning about unknown names, and what this host's CPU cannot do.
uint32_t switches_off();

}  // namespace vireo::softkvm
