// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

namespace vireo::preload {

// The addresses around all that is lent or was a slot, for those who ask without a mutex. Async-signal-safe. What a child drops of a file would be gone for
// its parent too, so it knows of none: they lie in a page that is zeroed in it, even if no handlers of a fork have run (_Fork(), clone).
class Bounds {
 public:
  Bounds();
  void set(uintptr_t low, uintptr_t high) {
    page_->lowest.store(low, std::memory_order_release);
    page_->highest.store(high, std::memory_order_release);
  }
  bool none() const { return page_->highest.load(std::memory_order_acquire) == 0; }
  bool touch(uintptr_t begin, uintptr_t end) const {
    return begin < page_->highest.load(std::memory_order_acquire) && end > page_->lowest.load(std::memory_order_acquire);
  }

 private:
  struct Page {
    std::atomic<uintptr_t> lowest, highest;
  };
  Page* page_;
};

}  // namespace vireo::preload
