// SPDX-License-Identifier: Apache-2.0
// kvmclock: the structures a guest reads its time from, computed; the caller writes them to guest memory. Pure functions.
// Guest's time = system_time + ((rdtsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32 ns.
// Spec: Documentation/virt/kvm/x86/msr.rst (MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_WALL_CLOCK_NEW), api.rst 4.29, 4.30.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

namespace vireo::softkvm {

// As the guest has it in memory.
struct [[gnu::packed]] PvclockVcpuTimeInfo {
  uint32_t version;  // odd while being written
  uint32_t pad0;
  uint64_t tsc_timestamp;
  uint64_t system_time;
  uint32_t tsc_to_system_mul;
  int8_t tsc_shift;
  uint8_t flags;
  uint8_t pad[2];
};
static_assert(sizeof(PvclockVcpuTimeInfo) == 32);

struct [[gnu::packed]] PvclockWallClock {
  uint32_t version;
  uint32_t sec;
  uint32_t nsec;
};
static_assert(sizeof(PvclockWallClock) == 12);

constexpr uint8_t kPvclockTscStable = 1, kPvclockGuestStopped = 2;

// Multiplier and shift that turn ticks of `base_hz` into ticks of `scaled_hz`: the multiplier has its top bit set wherever
// possible, which is the most exact choice.
struct TimeScale {
  uint32_t mul = 0;
  int8_t shift = 0;
};
TimeScale time_scale(uint64_t scaled_hz, uint64_t base_hz);
uint64_t apply(TimeScale scale, uint64_t ticks);

// A VM's clock, in nanoseconds since it was created or last set.
class Kvmclock {
 public:
  // `boot_ns`: CLOCK_BOOTTIME or CLOCK_MONOTONIC, the same clock in all calls.
  explicit Kvmclock(uint64_t boot_ns) : zero_ns_(boot_ns) {}

  uint64_t now(uint64_t boot_ns) const { return boot_ns - zero_ns_; }
  void set(uint64_t boot_ns, uint64_t clock_ns) { zero_ns_ = boot_ns - clock_ns; }

  // The next contents for one vCPU after `old` (whose version it continues). `guest_tsc` and `boot_ns` are of one moment; all
  // vCPUs must be given the same moment for `flags` to hold kPvclockTscStable.
  PvclockVcpuTimeInfo vcpu_time(const PvclockVcpuTimeInfo& old, uint64_t boot_ns, uint64_t guest_tsc, uint32_t tsc_khz,
                                uint8_t flags) const;
  // The wall time at which the VM's clock was zero.
  PvclockWallClock wall_clock(const PvclockWallClock& old, uint64_t boot_ns, uint64_t realtime_ns) const;

  // KVM_GET_CLOCK. `stable`: the guest sees one time on all vCPUs.
  kvm_clock_data get(uint64_t boot_ns, uint64_t realtime_ns, uint64_t host_tsc, bool stable) const;
  // KVM_SET_CLOCK: 0 or -EINVAL. With KVM_CLOCK_REALTIME the time since the data was got is added.
  int set(const kvm_clock_data& data, uint64_t boot_ns, uint64_t realtime_ns);

 private:
  uint64_t zero_ns_;
};

}  // namespace vireo::softkvm
