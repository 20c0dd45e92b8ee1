// SPDX-License-Identifier: Apache-2.0
// A lock for a few dozen instructions, usable in FAST code: no libc, and it yields when the holder seems to be preempted
// (more vCPUs than cores).
#pragma once

#include <atomic>

#include "softkvm/irqchip/raw_syscall.h"

namespace vireo::softkvm {

class SpinLock {
 public:
  void lock() {
    unsigned spins = 0;
    while (held_.exchange(true, std::memory_order_acquire)) {
      while (held_.load(std::memory_order_relaxed)) {
        __builtin_ia32_pause();
        if (++spins % 128 == 0) raw_syscall(SYS_sched_yield);
      }
    }
  }
  void unlock() { held_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> held_{false};
};

class SpinGuard {
 public:
  explicit SpinGuard(SpinLock& lock) : lock_(lock) { lock_.lock(); }
  ~SpinGuard() { lock_.unlock(); }
  SpinGuard(const SpinGuard&) = delete;
  SpinGuard& operator=(const SpinGuard&) = delete;

 private:
  SpinLock& lock_;
};

}  // namespace vireo::softkvm
