// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/paravirtual.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <ctime>

#include "softkvm/cpu/system.h"
#include "softkvm/irqchip/kvmclock.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/safe_point.h"

namespace vireo::softkvm {
namespace {

uint64_t now(clockid_t id) {
  timespec t;
  clock_gettime(id, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000ull + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace

namespace {

// Where the guest may have such an area: not in system management mode's address space, which lies above (slots.h).
bool reachable(uint64_t at) { return at < kSmmSpace; }

// Nanoseconds that this thread was runnable and did not run. Spec: the kernel's Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat.
bool run_delay(uint64_t& ns) {
  struct File {
    int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    ~File() {
      if (fd >= 0) close(fd);
    }
  };
  static thread_local File file;
  char text[128];
  ssize_t size = file.fd < 0 ? -1 : pread(file.fd, text, sizeof text - 1, 0);
  if (size <= 0) return false;
  text[size] = 0;
  unsigned long long on_cpu, waited;
  if (sscanf(text, "%llu %llu", &on_cpu, &waited) != 2) return false;
  ns = waited;
  return true;
}

// Spec: Documentation/virt/kvm/x86/msr.rst, struct kvm_steal_time.
struct StealTime {
  uint64_t steal;
  uint32_t version, flags;
  uint8_t preempted, pad[3];
  uint32_t more[11];
};
static_assert(sizeof(StealTime) == 64);

// The page may hold code, too.
void put(Vm& vm, uint64_t at, const void* data, size_t size) {
  if (vm.write_physical(at, data, size)) invalidate_code(vm, at, size);
}

}  // namespace

void update_steal_time(Vcpu& vcpu) {
  if (!(vcpu.msr.steal_time & 1)) return;
  const uint64_t tsc = __builtin_ia32_rdtsc();
  if (tsc - vcpu.steal_updated < vcpu.tsc_khz / 10) return;  // a tenth of a millisecond
  vcpu.steal_updated = tsc;
  const int thread = gettid();
  uint64_t waited;
  if (!run_delay(waited)) return;
  // Another thread's wait before it took the vCPU over is not the vCPU's.
  const uint64_t more = vcpu.steal_thread == thread ? waited - vcpu.steal_seen : 0;
  vcpu.steal_thread = thread;
  vcpu.steal_seen = waited;
  const uint64_t at = vcpu.msr.steal_time & ~63ull;
  if (!reachable(at)) return;
  const AtMemory here(vcpu);
  StealTime time;
  if (!vcpu.vm->read_physical(at, &time, sizeof time)) return;
  const uint32_t version = (time.version | 1) + 1;
  time.version = version - 1;  // odd: being written
  put(*vcpu.vm, at + offsetof(StealTime, version), &time.version, 4);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  time.steal += more;
  put(*vcpu.vm, at, &time.steal, 8);
  time.preempted = 0;
  put(*vcpu.vm, at + offsetof(StealTime, preempted), &time.preempted, 1);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  put(*vcpu.vm, at + offsetof(StealTime, version), &version, 4);
}

void update_paravirtual(Vcpu& vcpu) {
  Vm& vm = *vcpu.vm;
  const AtMemory here(vcpu);
  uint64_t base_tsc, base_ns;
  {
    std::lock_guard lock(vm.clock_base.mutex);
    base_tsc = vm.clock_base.host_tsc, base_ns = vm.clock_base.ns;
  }
  const TimeScale scale = time_scale(1'000'000'000, static_cast<uint64_t>(vcpu.tsc_khz) * 1000);
  if (vcpu.msr.wall_clock && !reachable(vcpu.msr.wall_clock)) vcpu.msr.wall_clock = 0;
  if (vcpu.msr.wall_clock) {
    uint64_t system = base_ns + apply(scale, scale_tsc(vcpu, __builtin_ia32_rdtsc()) - scale_tsc(vcpu, base_tsc));
    uint64_t boot = now(CLOCK_REALTIME) - system;
    uint64_t at = vcpu.msr.wall_clock;
    PvclockWallClock clock{};
    vm.read_physical(at, &clock.version, 4);
    clock.version = (clock.version | 1) + 1;
    clock.sec = static_cast<uint32_t>(boot / 1000000000ull);
    clock.nsec = static_cast<uint32_t>(boot % 1000000000ull);
    put(vm, at, &clock, sizeof clock);
    vcpu.msr.wall_clock = 0;
  }
  if (vcpu.msr.system_time & 1 && reachable(vcpu.msr.system_time)) {
    uint64_t at = vcpu.msr.system_time & ~1ull;
    PvclockVcpuTimeInfo old{}, time{};
    vm.read_physical(at, &old, sizeof old);
    const uint32_t version = (old.version | 1) + 1;
    // Set by the host, cleared by the guest alone: api.rst, 4.70.
    if (old.flags & kPvclockGuestStopped) vcpu.guest_stopped = true;
    // Odd while it is being written: other vCPUs may be reading it.
    time.version = version - 1;
    put(vm, at, &time.version, 4);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    time.tsc_timestamp = scale_tsc(vcpu, base_tsc) + vcpu.msr.tsc_offset;
    time.system_time = base_ns;
    time.tsc_to_system_mul = scale.mul;
    time.tsc_shift = scale.shift;
    time.flags = kPvclockTscStable;  // all vCPUs read the host's TSC
    if (vcpu.guest_stopped) time.flags |= kPvclockGuestStopped, vcpu.guest_stopped = false;
    put(vm, at, &time, sizeof time);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    put(vm, at, &version, 4);
  }
}

}  // namespace vireo::softkvm
