// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/paravirtual.h"

#include <ctime>

#include "softkvm/cpu/system.h"
#include "softkvm/irqchip/kvmclock.h"

namespace vireo::softkvm {
namespace {

uint64_t now(clockid_t id) {
  timespec t;
  clock_gettime(id, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000ull + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace

void update_paravirtual(Vcpu& vcpu) {
  Vm& vm = *vcpu.vm;
  uint64_t base_tsc, base_ns;
  {
    std::lock_guard lock(vm.clock_base.mutex);
    base_tsc = vm.clock_base.host_tsc, base_ns = vm.clock_base.ns;
  }
  const TimeScale scale = time_scale(1'000'000'000, static_cast<uint64_t>(vcpu.tsc_khz) * 1000);
  if (vcpu.msr.wall_clock) {
    uint64_t system = base_ns + apply(scale, __builtin_ia32_rdtsc() - base_tsc);
    uint64_t boot = now(CLOCK_REALTIME) - system;
    uint64_t at = vcpu.msr.wall_clock;
    PvclockWallClock clock{};
    vm.read_physical(at, &clock.version, 4);
    clock.version = (clock.version | 1) + 1;
    clock.sec = static_cast<uint32_t>(boot / 1000000000ull);
    clock.nsec = static_cast<uint32_t>(boot % 1000000000ull);
    vm.write_physical(at, &clock, sizeof clock);
    vcpu.msr.wall_clock = 0;
  }
  if (vcpu.msr.system_time & 1) {
    uint64_t at = vcpu.msr.system_time & ~1ull;
    PvclockVcpuTimeInfo time{};
    vm.read_physical(at, &time.version, 4);
    const uint32_t version = (time.version | 1) + 1;
    // Odd while it is being written: other vCPUs may be reading it.
    time.version = version - 1;
    vm.write_physical(at, &time.version, 4);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    time.tsc_timestamp = base_tsc + vcpu.msr.tsc_offset;
    time.system_time = base_ns;
    time.tsc_to_system_mul = scale.mul;
    time.tsc_shift = scale.shift;
    time.flags = kPvclockTscStable;  // all vCPUs read the host's TSC
    if (vcpu.guest_stopped) time.flags |= kPvclockGuestStopped, vcpu.guest_stopped = false;
    vm.write_physical(at, &time, sizeof time);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    vm.write_physical(at, &version, 4);
  }
}

}  // namespace vireo::softkvm
