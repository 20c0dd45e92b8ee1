// SPDX-License-Identifier: Apache-2.0
// Is this hypervisor fit for stock guest kernels? Measured in a scratch VM: the speed of a loop in 64-bit kernel mode, then
// instructions that hosts without hardware virtualization often cannot emulate.
#pragma once

#include <cstdint>
#include <string>

#include "kvm/api.h"

namespace vireo::kvm {

struct ProbeResult {
  double million_per_second = 0;  // instructions of the loop
  std::string missing;            // names of the instructions that failed, separated by commas

  bool fit() const { return missing.empty() && million_per_second >= kThreshold; }
  std::string reason() const;  // why not
  static constexpr double kThreshold = 200;
};

Result<ProbeResult> probe(const Api& api);

}  // namespace vireo::kvm
