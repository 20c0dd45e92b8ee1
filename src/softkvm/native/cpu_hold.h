// SPDX-License-Identifier: Apache-2.0
// Keeps a vCPU's thread on the host CPU where it is while it goes to and fro with a stub process. One of the two always sleeps; but when the
// stub stops, the scheduler sees its CPU still taken and wakes the vCPU's thread on an idle one, whence the stub has to be fetched in turn:
// wake-ups across CPUs, 70 us a trap instead of 15 in a guest of a hypervisor, where an idle CPU is an exit. So the thread is bound to its
// CPU, and let go now and then, for the scheduler to find it a better one.
// For one thread, whose affinity it changes: it is put back as it was, unless somebody has set another one meanwhile.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <cstdint>

namespace vireo::softkvm {

class CpuHold {
 public:
  static constexpr uint64_t kHoldUs = 20'000, kFreeUs = 500;

  // Before a stub runs. `now`: the TSC, which counts `ticks_per_us`.
  void take(uint64_t now, uint64_t ticks_per_us);
  // Before the thread sleeps or leaves.
  void release();
  bool held() const { return held_; }

 private:
  bool held_ = false;
  int cpu_ = -1;
  pid_t thread_ = 0;
  uint64_t until_ = 0;  // TSC: held, or left alone, until then
  cpu_set_t before_;
};

}  // namespace vireo::softkvm
