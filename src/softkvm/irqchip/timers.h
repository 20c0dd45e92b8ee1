// SPDX-License-Identifier: Apache-2.0
// The VM's timers: APIC timers and the PIT. No signals: one timerfd, served by the VM's event thread. Arming is FAST code:
// it stores a deadline and enters the kernel only when that is earlier than what the timerfd is set to; a later deadline
// costs the thread one idle wake-up instead. Times are CLOCK_MONOTONIC nanoseconds.
#pragma once

#include <atomic>
#include <cstdint>

#include "softkvm/irqchip/spin_lock.h"

namespace vireo::softkvm {

// Now, in nanoseconds; a fake in tests. Called from FAST code.
class MonotonicClock {
 public:
  virtual uint64_t now_ns() const = 0;

 protected:
  ~MonotonicClock() = default;
};

class TimerQueue;

class HostTimer {
 public:
  static constexpr uint64_t kNever = ~0ull;
  // Called on the event thread, the timer being disarmed. (No virtual function: FAST code is compiled without RTTI.)
  using Expire = void (*)(HostTimer& timer, uint64_t now_ns);

  // From any thread. A deadline in the past fires at once (on the event thread).
  void arm(uint64_t deadline_ns);
  // It may still be expiring: an owner that cares checks its own deadline there, under its own lock.
  void cancel() { deadline_.store(kNever); }
  uint64_t deadline() const { return deadline_.load(); }

 protected:
  explicit HostTimer(Expire expire) : expire_(expire) {}
  ~HostTimer() = default;

 private:
  friend class TimerQueue;
  const Expire expire_;
  std::atomic<uint64_t> deadline_{kNever};
  TimerQueue* queue_ = nullptr;
  HostTimer* next_ = nullptr;
};

class TimerQueue {
 public:
  // `timer_fd`: a CLOCK_MONOTONIC timerfd, or -1 if the owner calls run_expired() by itself (tests).
  explicit TimerQueue(const MonotonicClock& clock, int timer_fd = -1) : clock_(clock), timer_fd_(timer_fd) {}

  uint64_t now_ns() const { return clock_.now_ns(); }
  // After detach() the timer is not expiring and will not. Not from inside an expiry.
  void attach(HostTimer& timer);
  void detach(HostTimer& timer);

  // Expires every timer that is due and programs the timerfd for the next. Returns its deadline.
  uint64_t run_expired();

 private:
  friend class HostTimer;
  void program(uint64_t deadline_ns);

  const MonotonicClock& clock_;
  const int timer_fd_;
  SpinLock list_lock_;
  HostTimer* first_ = nullptr;
  SpinLock program_lock_;
  std::atomic<uint64_t> programmed_{HostTimer::kNever};
};

}  // namespace vireo::softkvm
