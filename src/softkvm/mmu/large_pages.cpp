// SPDX-License-Identifier: Apache-2.0
// FAST: called while the guest's SIMD state is live.
#include "softkvm/mmu/large_pages.h"

#include <sys/mman.h>
#include <time.h>

#include "softkvm/irqchip/raw_syscall.h"

namespace vireo::softkvm {
namespace {

constexpr long kCollapse = 25;  // MADV_COLLAPSE, which not all of Debian 12's headers have
constexpr int64_t kSlow = 2'000'000;  // ns of processor time: more than 512 faults take
constexpr unsigned kMostFailures = 2;
std::atomic<unsigned> failures, slow;  // the host is one for all VMs of the process

int64_t now() {
  timespec t;
  raw_syscall(SYS_clock_gettime, CLOCK_THREAD_CPUTIME_ID, reinterpret_cast<long>(&t));
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

// One call of madvise that makes, or may make, a large page.
bool advise(const void* area, uint64_t size, int advice) {
  const int64_t before = now();
  const bool done = raw_syscall(SYS_madvise, reinterpret_cast<long>(area), static_cast<long>(size), advice) == 0;
  const bool long_taken = now() - before > kSlow;
  if (long_taken) slow.fetch_add(1, std::memory_order_relaxed);
  if (!done || long_taken) failures.fetch_add(1, std::memory_order_relaxed);
  return done;
}

}  // namespace

bool make_large(const void* area) { return failures.load(std::memory_order_relaxed) < kMostFailures && advise(area, kLargePage, kCollapse); }
bool make_large_from_nothing(const void* area) { return advise(area, 4096, MADV_POPULATE_WRITE) && make_large(area); }

bool host_is_slow() { return slow.load(std::memory_order_relaxed) >= kMostFailures; }
void ask_host_again() { failures = 0, slow = 0; }

void LargePages::enlarge(Range& range, uint64_t area) {
  if (area >= range.size >> kLargePageShift || range.fills[area].fetch_or(kAsked, std::memory_order_relaxed) & kAsked) return;
  const uint8_t* at = range.begin + (area << kLargePageShift);
  if (!worker_.running()) make_large(at);
  else if (!worker_.ask(at, PageWorker::Work::kLarge)) range.fills[area].fetch_and(static_cast<uint8_t>(~kAsked), std::memory_order_relaxed);
}

void LargePages::enough(Range& range, uint64_t area) {
  enlarge(range, area);
  if (!worker_.running()) return;
  auto used_before = [&](uint64_t other) {
    return other < range.size >> kLargePageShift && (range.fills[other].load(std::memory_order_relaxed) & kCount) >= kEnough;
  };
  if (used_before(area - 1)) enlarge(range, area + 1);
  if (used_before(area + 1)) enlarge(range, area - 1);
}

}  // namespace vireo::softkvm
