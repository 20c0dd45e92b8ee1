// SPDX-License-Identifier: Apache-2.0
// Optimisations that can be turned off, for finding out whose fault something is: VIREO_SOFTKVM_OFF=name,name in the environment, read when a
// VM is created. docs/engine.md tells what each does.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

enum Switch : uint32_t {
  kSwitchFastBlocks = 1u << 0,   // fast-blocks
  kSwitchDirectJumps = 1u << 1,  // direct-jumps
  kSwitchQuickStubs = 1u << 2,   // quick-stubs
  kSwitchTlbAccess = 1u << 3,    // tlb-access
  kSwitchNative = 1u << 16,      // native
};

// The switches named in a list such as VIREO_SOFTKVM_OFF's; `unknown` gets the first name that is none (or is left as it is).
uint32_t parse_switches(const char* list, const char** unknown, unsigned* unknown_length);
// Those of the environment, with a warning about unknown names.
uint32_t switches_off();

}  // namespace vireo::softkvm
