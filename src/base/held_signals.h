// SPDX-License-Identifier: Apache-2.0
// While one of these lives, no signal handler runs on its thread, but for faults: for who holds a mutex that a program's handler may ask for, or that it
// would leave locked by siglongjmp. What comes meanwhile comes afterwards. They may be nested; only the outermost makes system calls, and none
// does before expect_handlers(): a program that knows its own handlers needs them not.
#pragma once

#include <signal.h>

#include <atomic>
#include <mutex>
#include <optional>
#include <utility>

namespace vireo {

class HeldSignals {
 public:
  HeldSignals() {
    if (expected_.load(std::memory_order_relaxed)) hold();
  }
  HeldSignals(HeldSignals&& other) noexcept : held_(std::exchange(other.held_, false)), before_(other.before_) {}
  HeldSignals& operator=(HeldSignals&&) = delete;
  ~HeldSignals() {
    if (held_) release();
  }

  static void expect_handlers() { expected_.store(true, std::memory_order_relaxed); }

 private:
  void hold();
  void release();

  static std::atomic<bool> expected_;
  bool held_ = false;
  sigset_t before_;  // of the outermost
};

// A mutex that is held over fork(), for pthread_atfork(): no handler of the forking thread, in the parent or in the child, finds it locked.
class HeldOverFork {
 public:
  void lock(std::mutex& mutex) {
    HeldSignals held;
    mutex.lock();
    held_.emplace(std::move(held));
  }
  void unlock(std::mutex& mutex) {
    HeldSignals held = std::move(*held_);
    held_.reset();
    mutex.unlock();
  }

 private:
  std::optional<HeldSignals> held_;  // under the mutex
};

}  // namespace vireo
