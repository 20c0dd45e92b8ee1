// SPDX-License-Identifier: Apache-2.0
// CLOCK_MONOTONIC for FAST code: straight from the vDSO, which is compiled for general registers like the kernel it comes
// from, or by a system call where there is no vDSO.
#include <dlfcn.h>
#include <sys/syscall.h>
#include <time.h>

#include "softkvm/irqchip/irqchip.h"
#include "softkvm/irqchip/raw_syscall.h"

namespace vireo::softkvm {
namespace {

using GetTime = int (*)(clockid_t, timespec*);

class HostClock final : public MonotonicClock {
 public:
  HostClock() {
    // Already mapped in every process; the handle is kept for the process's life.
    if (void* vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD))
      get_time_ = reinterpret_cast<GetTime>(dlsym(vdso, "__vdso_clock_gettime"));
  }
  uint64_t now_ns() const override {
    timespec now;
    if (get_time_ == nullptr || get_time_(CLOCK_MONOTONIC, &now) != 0)
      raw_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, reinterpret_cast<long>(&now));
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  }

 private:
  GetTime get_time_ = nullptr;
};

}  // namespace

const MonotonicClock& host_clock() {
  static const HostClock clock;
  return clock;
}

}  // namespace vireo::softkvm
