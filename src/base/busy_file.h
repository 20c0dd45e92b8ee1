// SPDX-License-Identifier: Apache-2.0
// Files that only one program may use. One that was killed is not gone when its parent has seen its end: a process that it was starting (softkvm's stubs;
// any fork) has copies of its descriptors, and with them of its locks, until it is gone too, some milliseconds later. So who finds a file taken
// looks again for a moment, else a machine that is started again at once would be refused its own disks.
#pragma once

#include <chrono>
#include <thread>

#include "base/result.h"

namespace vireo {

// Calls attempt(), which gives a Result<>, until that is not kBusy any more, or for a quarter of a second.
template <class F>
Result<> while_busy(F attempt) {
  constexpr auto kPause = std::chrono::milliseconds(5);
  constexpr int kTimes = 50;
  for (int i = 0;; i++) {
    Result<> result = attempt();
    if (result || result.error().kind != ErrorKind::kBusy || i == kTimes) return result;
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace vireo
