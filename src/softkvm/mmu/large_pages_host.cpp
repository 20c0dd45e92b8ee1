// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <new>

#include "softkvm/mmu/large_pages.h"

namespace vireo::softkvm {

int LargePages::add(const void* host, uint64_t size) {
  const auto from = reinterpret_cast<uint64_t>(host), begin = (from + kLargePage - 1) & ~(kLargePage - 1), end = (from + size) & ~(kLargePage - 1);
  if (from + size < from) return -EINVAL;
  if (begin >= end) return 0;
  std::lock_guard lock(mutex_);
  const unsigned count = count_.load(std::memory_order_relaxed);
  if (count == kMost) return -ENOSPC;
  Range& range = ranges_[count];
  range.fills.reset(new (std::nothrow) std::atomic<uint8_t>[(end - begin) >> kLargePageShift]());
  if (!range.fills) return -ENOMEM;
  range.begin = reinterpret_cast<const uint8_t*>(begin);
  range.size = end - begin;
  count_.store(count + 1, std::memory_order_release);
  return 0;
}

}  // namespace vireo::softkvm
