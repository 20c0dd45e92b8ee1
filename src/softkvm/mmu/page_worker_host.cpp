// SPDX-License-Identifier: Apache-2.0
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "softkvm/mmu/large_page_wishes.h"
#include "softkvm/mmu/large_pages.h"
#include "softkvm/mmu/page_worker.h"

namespace vireo::softkvm {
namespace {

void carry_out(PageWorker::Work work, void* area) {
  switch (work) {
    case PageWorker::Work::kLarge:
      if (make_large_from_nothing(area)) break;
      if (host_is_slow()) large_page_wishes().take_back();
      [[fallthrough]];
    case PageWorker::Work::kWritable: madvise(area, kLargePage, MADV_POPULATE_WRITE); break;
    case PageWorker::Work::kRead: madvise(area, kLargePage, MADV_POPULATE_READ); break;
  }
}

}  // namespace

bool PageWorker::start() {
  if (running_) return true;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the caller's threads
  running_ = pthread_create(&thread_, nullptr, [](void* self) -> void* {
    static_cast<PageWorker*>(self)->run();
    return nullptr;
  }, this) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return running_;
}

void PageWorker::stop() {
  if (!running_) return;
  stop_.store(1);
  if (sleeping_.exchange(0)) syscall(SYS_futex, &sleeping_, FUTEX_WAKE_PRIVATE, 1);
  pthread_join(thread_, nullptr);
  running_ = false;
  stop_.store(0);
}

void PageWorker::run() {
  pthread_setname_np(pthread_self(), "softkvm-pages");
  while (!stop_.load()) {
    const uint32_t next = taken_.load();
    if (next == asked_.load()) {
      sleeping_.store(1);
      // Who asks, or stops, looks at it behind what it did.
      if (next == asked_.load() && !stop_.load()) syscall(SYS_futex, &sleeping_, FUTEX_WAIT_PRIVATE, 1, nullptr);
      sleeping_.store(0);
      continue;
    }
    const uint64_t job = jobs_[next % kMost].exchange(0, std::memory_order_acquire);
    if (!job) {  // its asker is about to write it
      sched_yield();
      continue;
    }
    taken_.store(next + 1);
    carry_out(static_cast<Work>(job & 0xfff), reinterpret_cast<void*>(job & ~uint64_t{0xfff}));
  }
}

}  // namespace vireo::softkvm
