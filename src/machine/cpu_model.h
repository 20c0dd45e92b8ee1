// SPDX-License-Identifier: Apache-2.0
// The guest's CPU by name: what of the hypervisor's offer it shows, and under whose name.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "machine/cpu_features.h"
#include "machine/named_cpus.h"

namespace vireo {

struct CpuModel {
  // kHost leaves out what keeps guest programs from running on the bare CPU (protection keys); kMax has all that is offered.
  // kNamed is the same on every host that can have it.
  enum class Base { kHost, kMax, kNamed };
  Base base = Base::kHost;
  const NamedCpu* named = nullptr;
  std::string vendor;  // of 12 characters, empty: as offered
  std::optional<unsigned> physical_bits;
  std::vector<std::pair<const CpuFeature*, bool>> changes;  // in their order; true: is to be there
};

// `host|max|NAME[,vendor=NAME][,physical-bits=N][,+FEATURE][,-FEATURE]...`
Result<CpuModel> parse_cpu_model(const std::string& text);

// The CPUID of one vCPU after the model; kInvalid names what is wanted and not offered.
Result<std::vector<kvm_cpuid_entry2>> apply_cpu_model(const CpuModel& model, std::vector<kvm_cpuid_entry2> entries);

}  // namespace vireo
