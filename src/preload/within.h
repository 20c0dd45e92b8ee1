// SPDX-License-Identifier: Apache-2.0
// While one of these lives, the thread is in a call of this library's that is no cancellation point and takes locks: it is not cancelled there (libc's
// munmap and ioctl are no such points, and glibc's unwinding would meet noexcept), no handler of the program's runs, and what an allocator calls on our behalf
// (jemalloc gives memory back whenever it is asked for some) passes by.
#pragma once

#include <pthread.h>

#include "base/held_signals.h"
#include "preload/state.h"

namespace vireo::preload {

class Within {
 public:
  Within() {
    ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state_);
    within++;
  }
  ~Within() {
    within--;
    ::pthread_setcancelstate(state_, nullptr);
  }
  Within(const Within&) = delete;
  Within& operator=(const Within&) = delete;

 private:
  HeldSignals held_;  // let go of last: a handler may leave by longjmp
  int state_;
};

}  // namespace vireo::preload
