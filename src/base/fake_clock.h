// SPDX-License-Identifier: Apache-2.0
// A clock and timers that move only when a test says so.
#pragma once

#include <memory>
#include <set>
#include <utility>

#include "base/event_loop.h"

namespace vireo {

class FakeClock final : public Clock, public Timers {
 public:
  explicit FakeClock(uint64_t now_ns = 1) : now_(now_ns) {}

  uint64_t now_ns() const override { return now_; }

  std::unique_ptr<Timer> create(std::function<void()> callback) override {
    return std::make_unique<FakeTimer>(*this, std::move(callback));
  }

  // Moves the time on, stopping at each deadline on the way to run its callback at its own time.
  void advance(uint64_t ns) {
    uint64_t end = now_ + ns;
    while (!armed_.empty() && armed_.begin()->first <= end) {
      auto [deadline, timer] = *armed_.begin();
      armed_.erase(armed_.begin());
      now_ = std::max(now_, deadline);
      auto callback = timer->callback_;  // it may destroy its timer
      callback();
    }
    now_ = end;
  }

  bool any_armed() const { return !armed_.empty(); }
  uint64_t next_deadline() const { return armed_.empty() ? UINT64_MAX : armed_.begin()->first; }

 private:
  class FakeTimer final : public Timer {
   public:
    FakeTimer(FakeClock& clock, std::function<void()> callback) : clock_(clock), callback_(std::move(callback)) {}
    ~FakeTimer() override { cancel(); }
    void arm(uint64_t deadline_ns) override {
      cancel();
      deadline_ = deadline_ns;
      clock_.armed_.insert({deadline_, this});
    }
    void cancel() override { clock_.armed_.erase({deadline_, this}); }

    FakeClock& clock_;
    std::function<void()> callback_;
    uint64_t deadline_ = 0;
  };

  uint64_t now_;
  std::set<std::pair<uint64_t, FakeTimer*>> armed_;
};

}  // namespace vireo
