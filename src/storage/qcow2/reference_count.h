// SPDX-License-Identifier: Apache-2.0
// References that a check has counted, by cluster. Sparse, so that a hostile image's far-away offsets cost nothing.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace vireo::storage::qcow2 {

class ReferenceCount {
 public:
  static constexpr uint64_t kChunk = 32768;
  void add(uint64_t cluster) {
    auto& chunk = chunks_[cluster / kChunk];
    if (chunk.empty()) chunk.resize(kChunk);
    uint32_t& count = chunk[cluster % kChunk];
    if (count != UINT32_MAX) ++count;
  }
  uint64_t get(uint64_t cluster) const {
    auto found = chunks_.find(cluster / kChunk);
    return found == chunks_.end() ? 0 : found->second[cluster % kChunk];
  }
  uint64_t end() const {  // no cluster from here on has any
    if (chunks_.empty()) return 0;
    auto& [number, counts] = *chunks_.rbegin();
    uint64_t n = counts.size();
    while (n && !counts[n - 1]) --n;
    return number * kChunk + n;
  }
  const std::map<uint64_t, std::vector<uint32_t>>& chunks() const { return chunks_; }

 private:
  std::map<uint64_t, std::vector<uint32_t>> chunks_;
};

}  // namespace vireo::storage::qcow2
