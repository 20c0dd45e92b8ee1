// SPDX-License-Identifier: Apache-2.0
#include "machine/numa.h"

#include <algorithm>
#include <string>

namespace vireo {
namespace {

constexpr size_t kMostNodes = 64;

std::unexpected<Error> bad(const std::string& reason) { return fail(ErrorKind::kInvalid, "--numa: " + reason); }

Result<> check_cpus(std::span<const NumaConfig> nodes, unsigned cpus) {
  std::vector<bool> taken(cpus);
  for (const NumaConfig& node : nodes) {
    for (unsigned cpu : node.cpus) {
      if (cpu >= cpus) return bad("vCPU " + std::to_string(cpu) + " is not there; --cpus is " + std::to_string(cpus));
      if (taken[cpu]) return bad("vCPU " + std::to_string(cpu) + " is given twice");
      taken[cpu] = true;
    }
  }
  auto missing = std::find(taken.begin(), taken.end(), false);
  if (missing != taken.end()) return bad("vCPU " + std::to_string(missing - taken.begin()) + " is in no node");
  return {};
}

}  // namespace

Result<std::vector<NumaNode>> lay_out_numa(std::span<const NumaConfig> nodes, unsigned cpus, std::span<const MemoryRegion> ram) {
  std::vector<NumaNode> out;
  if (nodes.empty()) return out;
  if (nodes.size() > kMostNodes) return bad(std::to_string(nodes.size()) + " nodes: at most " + std::to_string(kMostNodes));
  TRY_VOID(check_cpus(nodes, cpus));
  uint64_t all = 0, given = 0;
  for (const MemoryRegion& region : ram) all += region.size;
  for (const NumaConfig& node : nodes) {
    if (node.memory > all - given) return bad("the nodes have more memory than --memory gives");
    given += node.memory;
  }
  if (given != all) return bad(std::to_string((all - given) >> 10) + " KiB of --memory are in no node");
  size_t region = 0;
  uint64_t used = 0;  // of that region
  for (const NumaConfig& node : nodes) {
    NumaNode& to = out.emplace_back(NumaNode{node.cpus, {}});
    for (uint64_t left = node.memory; left;) {
      uint64_t size = std::min(left, ram[region].size - used);
      if (size) to.memory.push_back({raw(ram[region].start) + used, size});
      left -= size;
      used += size;
      if (used == ram[region].size) region++, used = 0;
    }
  }
  return out;
}

}  // namespace vireo
