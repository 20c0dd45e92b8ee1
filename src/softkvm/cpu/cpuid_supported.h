// SPDX-License-Identifier: Apache-2.0
// What a guest can be given: the answer of KVM_GET_SUPPORTED_CPUID, and the table made of what KVM_SET_CPUID2 gave. Ordinary code.
// Two kinds of bits (softkvm.md). Execution features are the host's, masked by what its XCR0 enables: their instructions run as themselves.
// System features are ours, on every host.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "softkvm/cpu/cpuid.h"

namespace vireo::softkvm {

struct CpuidHost {
  CpuidEntry (*query)(uint32_t function, uint32_t index);
  uint64_t xcr0;  // of the host, 0 without OSXSAVE

  static CpuidHost bare();  // the CPU this runs on
};

struct CpuidOptions {
  // KVM_FEATURE_* bits that the hypervisor implements (leaf 0x40000001).
  uint32_t paravirtual = 0;
  // State components that the engine saves and restores; the host's are masked with it.
  uint64_t xcr0 = 0xe7;
  // Protection keys. PKU has its XSAVE component on every host, for PKRU is no host register here.
  bool pku = false, pks = false;
  bool mwait = false;
};

// KVM_FEATURE_CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, CLOCKSOURCE_STABLE_BIT: what the kvmclock MSRs make true.
constexpr uint32_t kParavirtualClock = 1u << 0 | 1u << 1 | 1u << 3 | 1u << 24;

constexpr uint32_t kParavirtualStealTime = 1u << 5;

std::vector<CpuidEntry> supported_cpuid(const CpuidHost& host, const CpuidOptions& options);

// A sealed table of these entries; null where there are more than CpuidTable::kMaxEntries.
std::unique_ptr<CpuidTable> make_cpuid_table(std::span<const CpuidEntry> entries);

}  // namespace vireo::softkvm
