// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/timers.h"

#include <sys/timerfd.h>

namespace vireo::softkvm {

void HostTimer::arm(uint64_t deadline_ns) {
  deadline_.store(deadline_ns);
  if (queue_ != nullptr) queue_->program(deadline_ns);
}

void TimerQueue::program(uint64_t deadline_ns) {
  if (deadline_ns >= programmed_.load()) return;
  SpinGuard guard(program_lock_);
  if (deadline_ns >= programmed_.load()) return;
  programmed_.store(deadline_ns);
  if (timer_fd_ < 0) return;
  constexpr uint64_t kSecond = 1'000'000'000;
  itimerspec spec;
  spec.it_interval.tv_sec = spec.it_interval.tv_nsec = 0;
  spec.it_value.tv_sec = static_cast<time_t>(deadline_ns / kSecond);
  // All zero would disarm it; the first nanosecond is as much in the past.
  spec.it_value.tv_nsec = static_cast<long>(deadline_ns == 0 ? 1 : deadline_ns % kSecond);
  raw_syscall(SYS_timerfd_settime, timer_fd_, TFD_TIMER_ABSTIME, reinterpret_cast<long>(&spec), 0);
}

void TimerQueue::attach(HostTimer& timer) {
  SpinGuard guard(list_lock_);
  timer.queue_ = this;
  timer.next_ = first_;
  first_ = &timer;
}

void TimerQueue::detach(HostTimer& timer) {
  SpinGuard guard(list_lock_);
  for (HostTimer** at = &first_; *at != nullptr; at = &(*at)->next_) {
    if (*at != &timer) continue;
    *at = timer.next_;
    break;
  }
  timer.queue_ = nullptr;
  timer.next_ = nullptr;
}

uint64_t TimerQueue::run_expired() {
  SpinGuard guard(list_lock_);
  // From here on whoever arms a timer programs the timerfd anew, so none is lost between the scan and the end.
  {
    SpinGuard program_guard(program_lock_);
    programmed_.store(HostTimer::kNever);
  }
  const uint64_t now = clock_.now_ns();
  for (HostTimer* timer = first_; timer != nullptr; timer = timer->next_) {
    uint64_t deadline = timer->deadline_.load();
    if (deadline <= now && timer->deadline_.compare_exchange_strong(deadline, HostTimer::kNever)) timer->expire_(*timer, now);
  }
  uint64_t next = HostTimer::kNever;
  for (HostTimer* timer = first_; timer != nullptr; timer = timer->next_) {
    const uint64_t deadline = timer->deadline_.load();
    if (deadline < next) next = deadline;
  }
  if (next != HostTimer::kNever) program(next);
  return next;
}

}  // namespace vireo::softkvm
