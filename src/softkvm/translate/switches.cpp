// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/switches.h"

#include <cstdlib>
#include <cstring>

#include "base/log.h"

namespace vireo::softkvm {
namespace {

constexpr SwitchName kNames[] = {
    {"fast-blocks", kSwitchFastBlocks},
    {"long-blocks", kSwitchLongBlocks},
    {"links", kSwitchLinks},
    {"jump-cache", kSwitchJumpCache},
    {"fetch-cache", kSwitchFetchCache},
    {"direct-jumps", kSwitchDirectJumps},
    {"quick-stubs", kSwitchQuickStubs},
    {"inline-stack", kSwitchInlineStack},
    {"string-stubs", kSwitchStringStubs},
    {"bulk-strings", kSwitchBulkStrings},
    {"bit-strings", kSwitchBitStrings},
    {"dead-flags", kSwitchDeadFlags},
    {"host-flags", kSwitchHostFlags},
    {"inline-tlb", kSwitchInlineTlb},
    {"rorx", kSwitchRorx},
    {"recent-pages", kSwitchRecentPages},
    {"grouped-checks", kSwitchGroupedChecks},
    {"tlb-access", kSwitchTlbAccess},
    {"quick-misses", kSwitchQuickMisses},
    {"early-write-tags", kSwitchEarlyWriteTags},
    {"global-pages", kSwitchGlobalPages},
    {"known-areas", kSwitchKnownAreas},
    {"kept-pages", kSwitchKeptPages},
    {"kept-jumps", kSwitchKeptJumps},
    {"fill-log", kSwitchFillLog},
    {"invlpg-filter", kSwitchInvlpgFilter},
    {"code-chunks", kSwitchCodeChunks},
    {"doubted-jumps", kSwitchDoubtedJumps},
    {"settled-doubts", kSwitchSettledDoubts},
    {"native", kSwitchNative},
    {"large-pages", kSwitchLargePages},
    {"stored-code", kSwitchStoredCode},
};

}  // namespace

const std::span<const SwitchName> kSwitchNames = kNames;

uint32_t parse_switches(const char* list, const char** unknown, unsigned* unknown_length) {
  uint32_t off = 0;
  while (*list) {
    const size_t length = strcspn(list, ",");
    uint32_t bit = 0;
    for (const auto& known : kNames)
      if (strlen(known.name) == length && memcmp(known.name, list, length) == 0) bit = known.bit;
    if (!bit && length && !*unknown) *unknown = list, *unknown_length = static_cast<unsigned>(length);
    off |= bit;
    list += length;
    if (*list) list++;
  }
  return off;
}

uint32_t switches_off() {
  const uint32_t host = __builtin_cpu_supports("bmi2") ? 0 : uint32_t{kSwitchRorx};
  const char* list = getenv("VIREO_SOFTKVM_OFF");
  if (!list) return host;
  const char* unknown = nullptr;
  unsigned length = 0;
  const uint32_t off = parse_switches(list, &unknown, &length);
  if (unknown) log(LogLevel::kWarning, "VIREO_SOFTKVM_OFF: no switch is called %.*s", static_cast<int>(length), unknown);
  return off | host;
}

}  // namespace vireo::softkvm
