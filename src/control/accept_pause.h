// SPDX-License-Identifier: Apache-2.0
// A listener for which there is no descriptor (EMFILE and the like) stays ready, and epoll would tell of it without end: it is left alone for
// a while. Who connects meanwhile waits in its queue.
#pragma once

#include <sys/epoll.h>

#include <memory>

#include "base/event_loop.h"

namespace vireo::control {

class AcceptPause {
 public:
  AcceptPause(EventLoop& loop, int listener) : loop_(loop), listener_(listener), timer_(loop.create([&loop, listener] { loop.change(listener, EPOLLIN); })) {}
  // After an accept4() that gave nothing: whether there may be more to take at once.
  bool go_on(int error) {
    if (error == EINTR || error == ECONNABORTED) return true;
    if (error == EAGAIN) return false;
    loop_.change(listener_, 0);
    timer_->arm(loop_.now_ns() + kPauseNs);
    return false;
  }

 private:
  static constexpr uint64_t kPauseNs = 100'000'000;
  EventLoop& loop_;
  int listener_;
  std::unique_ptr<Timer> timer_;
};

}  // namespace vireo::control
