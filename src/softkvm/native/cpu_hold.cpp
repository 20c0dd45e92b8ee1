// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/cpu_hold.h"

#include <unistd.h>

namespace vireo::softkvm {

void CpuHold::take(uint64_t now, uint64_t ticks_per_us) {
  if (now < until_) return;
  if (held_) {
    release();
    until_ = now + kFreeUs * ticks_per_us;
    return;
  }
  until_ = now + kHoldUs * ticks_per_us;
  // It fails where a set has no room for the host's CPUs; the user's choice of one CPU needs nothing.
  if (sched_getaffinity(0, sizeof before_, &before_) || CPU_COUNT(&before_) < 2) return;
  cpu_ = sched_getcpu();
  if (cpu_ < 0 || cpu_ >= CPU_SETSIZE) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<unsigned>(cpu_), &one);
  held_ = sched_setaffinity(0, sizeof one, &one) == 0;
  thread_ = gettid();
}

void CpuHold::release() {
  if (!held_) return;
  held_ = false;
  until_ = 0;
  cpu_set_t now;
  if (sched_getaffinity(thread_, sizeof now, &now) || CPU_COUNT(&now) != 1 || !CPU_ISSET(static_cast<unsigned>(cpu_), &now)) return;
  sched_setaffinity(thread_, sizeof before_, &before_);
}

}  // namespace vireo::softkvm
