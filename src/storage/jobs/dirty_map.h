// SPDX-License-Identifier: Apache-2.0
// Which parts of a disk a job has still to copy: a bit for each, and how many are set. Any thread.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

namespace vireo::storage {

class DirtyMap {
 public:
  DirtyMap(uint64_t size, uint64_t granularity) : size_(size), unit_(granularity), words_((units() + 63) / 64) {}
  uint64_t granularity() const { return unit_; }
  uint64_t units() const { return (size_ + unit_ - 1) / unit_; }
  // Every part that the range touches.
  void set(uint64_t offset, uint64_t length) {
    if (length == 0 || offset >= size_) return;
    std::lock_guard lock(mutex_);
    for (uint64_t u = offset / unit_; u <= (std::min(offset + length, size_) - 1) / unit_; ++u) change(u, true);
  }
  bool get(uint64_t offset) const {
    std::lock_guard lock(mutex_);
    return words_[offset / unit_ / 64] >> (offset / unit_ % 64) & 1;
  }
  // Clears the part at `offset`; false: it was clear.
  bool take(uint64_t offset) {
    std::lock_guard lock(mutex_);
    return change(offset / unit_, false);
  }
  // Where the next dirty part from `offset` on begins.
  std::optional<uint64_t> next(uint64_t offset) const {
    std::lock_guard lock(mutex_);
    for (uint64_t u = (offset + unit_ - 1) / unit_; u < units();) {
      const uint64_t word = words_[u / 64] >> (u % 64);
      if (word) {
        u += static_cast<uint64_t>(std::countr_zero(word));
        return u < units() ? std::optional(u * unit_) : std::nullopt;
      }
      u = (u / 64 + 1) * 64;
    }
    return {};
  }
  uint64_t dirty_bytes() const {
    std::lock_guard lock(mutex_);
    return count_ * unit_;
  }

 private:
  bool change(uint64_t unit, bool on) {
    uint64_t& word = words_[unit / 64];
    const uint64_t bit = 1ull << (unit % 64);
    if (!(word & bit) == !on) return false;
    word ^= bit;
    count_ += on ? 1 : UINT64_MAX;
    return true;
  }
  const uint64_t size_, unit_;
  mutable std::mutex mutex_;
  std::vector<uint64_t> words_;
  uint64_t count_ = 0;
};

}  // namespace vireo::storage
