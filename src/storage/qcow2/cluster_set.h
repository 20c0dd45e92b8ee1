// SPDX-License-Identifier: Apache-2.0
// Which clusters hold metadata, and of what kind: the overlap check that every write passes. Eight bytes a cluster, open
// addressing, so that a table of millions costs tens of megabytes and no more.
#pragma once

#include <cstdint>
#include <vector>

namespace vireo::storage::qcow2 {

enum class Owner : uint8_t { kNone, kHeader, kActiveL1, kActiveL2, kReftable, kRefblock, kSnapshotTable, kInactiveL1, kBitmaps, kCrypto };
const char* owner_name(Owner owner);

class ClusterSet {
 public:
  void set(uint64_t cluster, Owner owner) {
    if ((used_ + 1) * 2 > slots_.size()) grow();
    uint64_t& slot = find(cluster);
    if (slot == 0) ++used_;
    slot = (cluster + 1) << 8 | static_cast<uint8_t>(owner);
  }
  // Keeps its slot, so that others are still found.
  void remove(uint64_t cluster) {
    if (slots_.empty()) return;
    uint64_t& slot = find(cluster);
    if (slot) slot &= ~0xffull;
  }
  Owner get(uint64_t cluster) const {
    if (slots_.empty()) return Owner::kNone;
    return static_cast<Owner>(const_cast<ClusterSet*>(this)->find(cluster) & 0xff);
  }

 private:
  uint64_t& find(uint64_t cluster) {
    uint64_t mask = slots_.size() - 1, at = (cluster * 0x9e3779b97f4a7c15ull) >> 20 & mask;
    while (slots_[at] && slots_[at] >> 8 != cluster + 1) at = (at + 1) & mask;
    return slots_[at];
  }
  void grow() {
    std::vector<uint64_t> old(slots_.empty() ? 64 : slots_.size() * 2);
    old.swap(slots_);
    used_ = 0;
    for (uint64_t slot : old)
      if (slot & 0xff) find((slot >> 8) - 1) = slot, ++used_;
  }
  std::vector<uint64_t> slots_;  // (cluster + 1) << 8 | owner
  uint64_t used_ = 0;
};

}  // namespace vireo::storage::qcow2
