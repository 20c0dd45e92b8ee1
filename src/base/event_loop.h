// SPDX-License-Identifier: Apache-2.0
// One thread's event loop: descriptors, timers and calls posted from other threads. Callbacks come on the loop's thread,
// which is the one inside run(), step() or, while nobody is, call(). Every function may be called from any thread; but what
// a callback uses is only safe to destroy on the loop's thread (see call()), since unwatch() and Timer::cancel() elsewhere
// do not wait for a callback that is already running. Timer times are CLOCK_MONOTONIC nanoseconds.
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

  // From any thread: runs `call` on the loop's thread, in order. From the loop's own thread it costs no system call and
  // runs when the callbacks of this round are done.
  void post(std::function<void()> call);

  // Runs `call` on the loop's thread and returns when it is done, after every call posted before it. On the loop's thread
  // it runs at once. While no thread is in run(), the caller stands in for it, so that teardown works with the thread gone.
  void call(const std::function<void()>& call);
  bool on_loop_thread() const;

  void run();   // until stop()
  void stop();  // a stop() before run() makes that run() return at once
  void step(int timeout_ms);  // one round of run(): waits at most that long (-1: no limit) for something to do

 private:
  struct Impl;
  explicit EventLoop(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace vireo
