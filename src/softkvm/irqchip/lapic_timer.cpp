// SPDX-License-Identifier: Apache-2.0
// The APIC timer: one-shot, periodic, TSC deadline. The bus clock is 1 GHz unless the VM says otherwise.
// Spec: Intel SDM vol 3, 11.5.4.
#include "softkvm/irqchip/lapic.h"

namespace vireo::softkvm {

using namespace apic;

namespace {
// A guest may not make the host's thread spin: periods below this are stretched to it (KVM's min_timer_period_us).
constexpr uint64_t kMinimumPeriodNs = 200'000;

uint64_t saturating_add(uint64_t a, uint64_t b) { return a + b < a ? ~0ull - 1 : a + b; }
}  // namespace

void Lapic::set_tsc_khz(uint32_t khz) {
  SpinGuard guard(timer_lock_);
  if (khz != 0) ns_per_tick_ = (1'000'000ull << 32) / khz;
  if (timer_mode_ == TimerMode::kTscDeadline) arm_deadline();
}

void Lapic::tsc_changed() {
  SpinGuard guard(timer_lock_);
  if (timer_mode_ == TimerMode::kTscDeadline) arm_deadline();
}

uint64_t Lapic::count_ns(uint32_t count) const { return static_cast<uint64_t>(count) * divide_ * bus_cycle_ns_; }

void Lapic::update_divide() {
  const uint32_t tdcr = reg(kTdcr);
  divide_ = 1u << ((((tdcr & 3) | (tdcr & 8) >> 1) + 1) & 7);
}

void Lapic::limit_period() {
  if (timer_mode_ == TimerMode::kPeriodic && period_ns_ != 0 && period_ns_ < kMinimumPeriodNs)
    period_ns_ = kMinimumPeriodNs;
}

void Lapic::start_timer(uint64_t first_ns) {
  running_ = true;
  target_ns_ = saturating_add(timers_.now_ns(), first_ns);
  arm(target_ns_);
}

void Lapic::stop_timer() {
  cancel();
  running_ = false;
  tsc_deadline_ = 0;
}

void Lapic::update_timer_mode() {
  const uint32_t bits = reg(kLvtTimer) >> 17 & (features_.tsc_deadline ? 3 : 1);
  const TimerMode mode = static_cast<TimerMode>(bits);
  if (mode == timer_mode_) return;
  // Going to or from TSC deadline disarms the timer; one-shot and periodic share the running count.
  if ((mode == TimerMode::kTscDeadline) != (timer_mode_ == TimerMode::kTscDeadline)) {
    stop_timer();
    set(kTmict, 0);
    period_ns_ = 0;
  }
  timer_mode_ = mode;
  limit_period();
}

void Lapic::write_lvt_timer(uint32_t value) {
  SpinGuard guard(timer_lock_);
  set(kLvtTimer, value & (kLvtMasked | 0x10ff | (features_.tsc_deadline ? 3u : 1u) << 17));
  update_timer_mode();
}

void Lapic::write_initial_count(uint32_t value) {
  SpinGuard guard(timer_lock_);
  if (timer_mode_ == TimerMode::kTscDeadline) return;
  stop_timer();
  set(kTmict, value);
  period_ns_ = count_ns(value);
  limit_period();
  if (period_ns_ != 0) start_timer(period_ns_);
}

void Lapic::write_divide(uint32_t value) {
  SpinGuard guard(timer_lock_);
  const uint32_t old = divide_;
  set(kTdcr, value & 0xb);
  update_divide();
  if (divide_ == old || reg(kTmict) == 0) return;
  period_ns_ = count_ns(reg(kTmict));
  limit_period();
  if (!running_) return;
  const uint64_t now = timers_.now_ns();
  const uint64_t left = target_ns_ > now ? target_ns_ - now : 0;
  start_timer(left / old * divide_ + left % old * divide_ / old);
}

uint32_t Lapic::current_count() const {
  SpinGuard guard(timer_lock_);
  if (timer_mode_ == TimerMode::kTscDeadline || !running_ || period_ns_ == 0) return 0;
  const uint64_t now = timers_.now_ns();
  if (target_ns_ <= now) return 0;
  return static_cast<uint32_t>((target_ns_ - now) / (static_cast<uint64_t>(divide_) * bus_cycle_ns_));
}

uint64_t Lapic::tsc_deadline() const {
  SpinGuard guard(timer_lock_);
  return timer_mode_ == TimerMode::kTscDeadline ? tsc_deadline_ : 0;
}

void Lapic::set_tsc_deadline(uint64_t tsc) {
  {
    SpinGuard guard(timer_lock_);
    if (timer_mode_ != TimerMode::kTscDeadline) return;
    cancel();
    tsc_deadline_ = tsc;
    if (tsc == 0 || signal_.guest_tsc() < tsc) return arm_deadline();
  }
  expire(timers_.now_ns());  // it has passed: the interrupt comes with the write
}

void Lapic::arm_deadline() {
  if (tsc_deadline_ == 0) return;
  const uint64_t tsc = signal_.guest_tsc();
  uint64_t wait = 0;
  if (tsc < tsc_deadline_) {
    const unsigned __int128 scaled = static_cast<unsigned __int128>(tsc_deadline_ - tsc) * ns_per_tick_;
    wait = scaled >> 95 ? ~0ull >> 1 : static_cast<uint64_t>(scaled >> 32) + 1;  // rounded up: never early
  }
  arm(saturating_add(timers_.now_ns(), wait));
}

void Lapic::enter() {
  bool late;
  {
    SpinGuard guard(timer_lock_);
    entered_ = true;
    late = late_;
    late_ = false;
  }
  if (late) expire(timers_.now_ns());
}

void Lapic::leave() {
  SpinGuard guard(timer_lock_);
  entered_ = false;
}

void Lapic::expire(uint64_t now_ns) {
  bool kick = false;
  {
    SpinGuard guard(timer_lock_);
    if (!entered_) {
      late_ = true;
      return;
    }
    if (timer_mode_ == TimerMode::kTscDeadline) {
      if (tsc_deadline_ == 0) return;
      if (signal_.guest_tsc() < tsc_deadline_) return arm_deadline();  // moved since, or the clocks drift apart
      tsc_deadline_ = 0;
    } else {
      if (!running_) return;
      if (now_ns < target_ns_) return arm(target_ns_);
      if (timer_mode_ == TimerMode::kPeriodic && period_ns_ != 0) {
        target_ns_ += period_ns_ * (1 + (now_ns - target_ns_) / period_ns_);  // missed ones merge, the phase stays
        arm(target_ns_);
      } else {
        running_ = false;
      }
    }
    // Under the lock, so that once LVT or count are rewritten nothing of the old programming comes.
    const uint32_t lvt = reg(kLvtTimer);
    if (!(lvt & kLvtMasked) && present() && software_enabled()) {
      const uint8_t vector = static_cast<uint8_t>(lvt);
      clear_vector(kTmr, vector);
      kick = set_vector(kIrr, vector);
    }
  }
  if (kick) signal_.kick();
}

}  // namespace vireo::softkvm
