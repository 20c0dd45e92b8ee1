// SPDX-License-Identifier: Apache-2.0
// Memory in the host's large pages, where it is seen to be used. A new page of shared memory costs its first user a fault of 2 to 3 us, and
// 512 entries of the host's TLB where one would do. Linux puts no shared memory into large pages by itself (its policy for that is "never"
// by default), but does so when asked (Linux 6.1, madvise(2), MADV_COLLAPSE). Thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "softkvm/mmu/page_worker.h"

namespace vireo::softkvm {

constexpr unsigned kLargePageShift = 21;  // x86-64's second level of page tables
constexpr uint64_t kLargePage = 1ull << kLargePageShift;

// Puts the large page's worth of memory at `area` into one; what is there stays. False: the host does not, or no longer, since it took as
// long as small pages would have: memory that it has to look for, or has never had before. FAST.
bool make_large(const void* area);
// The same where there may be no page at all yet, which the host would not make a large one: the first may be one at once, where the program wants that.
bool make_large_from_nothing(const void* area);
// It has taken long more than once.
bool host_is_slow();
// Forgets that the host was slow. For tests, which want to see large pages even so.
void ask_host_again();

// Guest memory, area by area as the guest comes to use it. Areas of which it uses a few pages stay small, so that it takes no more memory
// than it has to. Where it goes through memory in one direction, a worker makes the next area large before the guest is there.
class LargePages {
 public:
  static constexpr unsigned kMost = 64;   // ranges
  static constexpr uint8_t kEnough = 16;  // TLB fills in an area after which it becomes large

  // `worker` does what there is to do; while it does not run, who calls used() does.
  explicit LargePages(PageWorker& worker) : worker_(worker) {}

  // The large pages that lie whole in [host, host+size). Not FAST. 0 or -errno.
  int add(const void* host, uint64_t size);
  unsigned ranges() const { return count_.load(std::memory_order_acquire); }

  // A page of the host's was entered into a TLB. FAST.
  void used(const uint8_t* host) {
    const unsigned count = count_.load(std::memory_order_acquire);
    for (unsigned i = 0; i < count; i++) {
      const uint64_t offset = static_cast<uint64_t>(host - ranges_[i].begin);
      if (offset >= ranges_[i].size) continue;
      const uint64_t area = offset >> kLargePageShift;
      std::atomic<uint8_t>& fills = ranges_[i].fills[area];
      const uint8_t n = fills.load(std::memory_order_relaxed);
      if ((n & kCount) >= kEnough) return;
      // Two vCPUs may count two fills as one: nothing is lost.
      fills.store(n + 1, std::memory_order_relaxed);
      if ((n & kCount) + 1 == kEnough) enough(ranges_[i], area);
      return;
    }
  }

 private:
  struct Range {
    const uint8_t* begin = nullptr;
    uint64_t size = 0;
    std::unique_ptr<std::atomic<uint8_t>[]> fills;  // by area
  };
  static constexpr uint8_t kCount = 0x7f, kAsked = 0x80;  // in Range::fills

  void enough(Range& range, uint64_t area);  // FAST
  void enlarge(Range& range, uint64_t area);

  PageWorker& worker_;
  std::mutex mutex_;  // of add()
  Range ranges_[kMost];
  std::atomic<unsigned> count_{0};
};

}  // namespace vireo::softkvm
