// SPDX-License-Identifier: Apache-2.0
// While one of these lives, the thread is in a call of this library's that is no cancellation point and takes locks: it is not cancelled there (libc's
// munmap and ioctl are no such points, and glibc's unwinding would meet noexcept), no handler of the program's runs, and what an allocator calls on our behalf
// (jemalloc gives memory back whenever it is asked for some) passes by.
#pragma once

#include "base/held_signals.h"
#include "preload/state.h"
#include "preload/uncancelled.h"

namespace vireo::preload {

class Within {
 public:
  Within() { within++; }
  ~Within() { within--; }
  Within(const Within&) = delete;
  Within& operator=(const Within&) = delete;

 private:
  HeldSignals held_;  // let go of last: a handler may leave by longjmp
  Uncancelled uncancelled_;
};

}  // namespace vireo::preload
