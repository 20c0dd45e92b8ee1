// SPDX-License-Identifier: Apache-2.0
// One thread's event loop: descriptors, timers and calls posted from other threads. Everything but post(), stop() and the
// clock is for the loop's own thread. Timer times are CLOCK_MONOTONIC nanoseconds.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/result.h"

namespace vireo {

// Nanoseconds of CLOCK_MONOTONIC, or a fake in tests.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual uint64_t now_ns() const = 0;
};

// A one-shot timer that can be armed again; destroying it disarms it. Callbacks come on the loop's thread.
class Timer {
 public:
  virtual ~Timer() = default;
  virtual void arm(uint64_t deadline_ns) = 0;  // absolute; the past means at once
  virtual void cancel() = 0;
};

class Timers {
 public:
  virtual ~Timers() = default;
  virtual std::unique_ptr<Timer> create(std::function<void()> callback) = 0;
};

class EventLoop : public Clock, public Timers {
 public:
  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop() override;

  uint64_t now_ns() const override;
  std::unique_ptr<Timer> create(std::function<void()> callback) override;

  // Calls `callback(events)` (EPOLLIN, EPOLLOUT ...) while `fd` is ready; one watch per fd.
  Result<> watch(int fd, uint32_t events, std::function<void(uint32_t)> callback);
  void change(int fd, uint32_t events);
  void unwatch(int fd);

  // From any thread: runs `call` on the loop's thread, in order.
  void post(std::function<void()> call);

  void run();   // until stop()
  void stop();  // from any thread

 private:
  EventLoop();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vireo
