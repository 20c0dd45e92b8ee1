// SPDX-License-Identifier: Apache-2.0
// FAST: the asking half.
#include "softkvm/mmu/page_worker.h"

#include <linux/futex.h>

#include "softkvm/irqchip/raw_syscall.h"

namespace vireo::softkvm {

bool PageWorker::ask(const void* area, Work work) {
  uint32_t at = asked_.load();
  do
    if (at - taken_.load() >= kMost) return false;
  while (!asked_.compare_exchange_weak(at, at + 1));
  jobs_[at % kMost].store(reinterpret_cast<uint64_t>(area) | static_cast<uint64_t>(work), std::memory_order_release);
  if (sleeping_.exchange(0)) raw_syscall(SYS_futex, reinterpret_cast<long>(&sleeping_), FUTEX_WAKE_PRIVATE, 1);
  return true;
}

}  // namespace vireo::softkvm
