// SPDX-License-Identifier: Apache-2.0
// The lock of a VM's code cache: a mutex that FAST code can try. Whoever holds it waits for no vCPU.
// Spec: futex(2); Ulrich Drepper, "Futexes Are Tricky", mutex3.
#pragma once

#include <linux/futex.h>

#include <atomic>
#include <cstdint>

#include "softkvm/irqchip/raw_syscall.h"

namespace vireo::softkvm {

class CodeLock {
 public:
  bool try_lock() {
    uint32_t free = 0;
    return state_.compare_exchange_strong(free, 1, std::memory_order_acquire);
  }
  // As try_lock(), but lets the holder come to its end if that is near.
  bool try_lock_awhile() {
    constexpr unsigned kSpins = 200;
    for (unsigned i = 0; i < kSpins; i++) {
      if (state_.load(std::memory_order_relaxed) == 0 && try_lock()) return true;
      __builtin_ia32_pause();
    }
    return false;
  }
  void lock() {
    if (try_lock()) return;
    while (state_.exchange(2, std::memory_order_acquire) != 0)
      raw_syscall(SYS_futex, reinterpret_cast<long>(&state_), FUTEX_WAIT_PRIVATE, 2, 0);
  }
  void unlock() {
    if (state_.exchange(0, std::memory_order_release) == 2) raw_syscall(SYS_futex, reinterpret_cast<long>(&state_), FUTEX_WAKE_PRIVATE, 1);
  }

 private:
  std::atomic<uint32_t> state_{0};  // 0 free, 1 held, 2 held and waited for
};

}  // namespace vireo::softkvm
