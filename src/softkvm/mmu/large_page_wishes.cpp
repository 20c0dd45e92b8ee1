// SPDX-License-Identifier: Apache-2.0
#include "softkvm/mmu/large_page_wishes.h"

#include <sys/mman.h>

#include <utility>

namespace vireo::softkvm {

void LargePageWishes::note(void* host, size_t size) {
  constexpr size_t kMost = 1024;  // of a program that has no guest
  std::lock_guard lock(mutex_);
  if (noted_.size() < kMost) noted_.push_back({static_cast<uint8_t*>(host), size});
}

std::vector<LargePageWishes::Range> LargePageWishes::grant(const void* host, uint64_t size) {
  auto* begin = static_cast<const uint8_t*>(host);
  std::vector<Range> found;
  std::lock_guard lock(mutex_);
  std::erase_if(noted_, [&](const Range& range) {
    const bool overlaps = begin < range.host + range.size && range.host < begin + size;
    if (overlaps) found.push_back(range);
    return overlaps;
  });
  granted_.insert(granted_.end(), found.begin(), found.end());
  return found;
}

void LargePageWishes::take_back() {
  std::vector<Range> ranges;
  {
    std::lock_guard lock(mutex_);
    ranges = std::exchange(granted_, {});
  }
  for (const Range& range : ranges) ::madvise(range.host, range.size, MADV_NOHUGEPAGE);
}

LargePageWishes& large_page_wishes() {
  static auto* instance = new LargePageWishes;  // threads may outlive the program's end
  return *instance;
}

}  // namespace vireo::softkvm
