// SPDX-License-Identifier: Apache-2.0
// The features that --cpu knows by name, and where CPUID tells of them.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <string_view>

namespace vireo {

struct CpuFeature {
  const char* name;
  uint32_t function, index;
  uint32_t kvm_cpuid_entry2::*word;
  unsigned bit;
};

std::span<const CpuFeature> cpu_features();
const CpuFeature* find_cpu_feature(std::string_view name);

}  // namespace vireo
