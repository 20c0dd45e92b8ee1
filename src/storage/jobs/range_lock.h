// SPDX-License-Identifier: Apache-2.0
// Ranges of a disk that one at a time may work on.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <mutex>

namespace vireo::storage {

class RangeLock {
 public:
  struct Range {
    uint64_t from, to;
  };
  using Held = std::list<Range>::iterator;

  Held lock(uint64_t from, uint64_t to) {
    std::unique_lock guard(mutex_);
    freed_.wait(guard, [&] { return !taken(from, to); });
    return held_.insert(held_.end(), {from, to});
  }
  void unlock(Held held) {
    {
      std::lock_guard guard(mutex_);
      held_.erase(held);
    }
    freed_.notify_all();
  }
  // The one that covers exactly this range, of a caller who kept no Held.
  void unlock(uint64_t from, uint64_t to) {
    {
      std::lock_guard guard(mutex_);
      for (auto at = held_.begin(); at != held_.end(); ++at)
        if (at->from == from && at->to == to) {
          held_.erase(at);
          break;
        }
    }
    freed_.notify_all();
  }

 private:
  bool taken(uint64_t from, uint64_t to) const {
    for (const Range& range : held_)
      if (range.from < to && from < range.to) return true;
    return false;
  }
  std::mutex mutex_;
  std::condition_variable freed_;
  std::list<Range> held_;
};

}  // namespace vireo::storage
