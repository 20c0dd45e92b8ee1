// SPDX-License-Identifier: Apache-2.0
// Nodes of a guest with non-uniform memory: which vCPUs and which RAM lie together. Spec: ACPI 6.5, 5.2.16 and 5.2.17.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace vireo {

struct NumaConfig {
  std::vector<unsigned> cpus;
  uint64_t memory = 0;  // bytes
};

struct NumaNode {
  std::vector<unsigned> cpus;
  struct Range {
    uint64_t start, size;
  };
  std::vector<Range> memory;
};

// Deals out the RAM to the nodes in turn, from address 0 up. Every vCPU must be in one node, and the nodes' memory be all of the RAM.
Result<std::vector<NumaNode>> lay_out_numa(std::span<const NumaConfig> nodes, unsigned cpus, std::span<const MemoryRegion> ram);

}  // namespace vireo
