// SPDX-License-Identifier: Apache-2.0
// While one of these lives, its thread is not cancelled: for what libc's functions do that are no cancellation points (pthreads(7)), and frames that
// glibc's unwinding may not go through.
#pragma once

#include <pthread.h>

namespace vireo::preload {

class Uncancelled {
 public:
  Uncancelled() { ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state_); }
  ~Uncancelled() { ::pthread_setcancelstate(state_, nullptr); }
  Uncancelled(const Uncancelled&) = delete;
  Uncancelled& operator=(const Uncancelled&) = delete;

 private:
  int state_;
};

}  // namespace vireo::preload
