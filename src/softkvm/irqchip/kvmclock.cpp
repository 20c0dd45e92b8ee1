// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/kvmclock.h"

#include <cerrno>

namespace vireo::softkvm {

TimeScale time_scale(uint64_t scaled_hz, uint64_t base_hz) {
  // Move the ratio scaled/base * 2^-shift into [1/2, 1), where its 32-bit fraction has the most bits.
  int shift = 0;
  while (base_hz > scaled_hz * 2 || base_hz >> 32) {
    base_hz >>= 1;
    --shift;
  }
  while (base_hz <= scaled_hz || scaled_hz >> 32) {
    if (scaled_hz >> 32 || base_hz >> 31)
      scaled_hz >>= 1;
    else
      base_hz <<= 1;
    ++shift;
  }
  return {static_cast<uint32_t>((scaled_hz << 32) / base_hz), static_cast<int8_t>(shift)};
}

uint64_t apply(TimeScale scale, uint64_t ticks) {
  ticks = scale.shift < 0 ? ticks >> -scale.shift : ticks << scale.shift;
  return static_cast<uint64_t>(static_cast<unsigned __int128>(ticks) * scale.mul >> 32);
}

PvclockVcpuTimeInfo Kvmclock::vcpu_time(const PvclockVcpuTimeInfo& old, uint64_t boot_ns, uint64_t guest_tsc,
                                        uint32_t tsc_khz, uint8_t flags) const {
  const TimeScale scale = time_scale(1'000'000'000, static_cast<uint64_t>(tsc_khz) * 1000);
  PvclockVcpuTimeInfo info{};
  info.version = (old.version | 1) + 1;  // even again, and another than before
  info.tsc_timestamp = guest_tsc;
  info.system_time = now(boot_ns);
  info.tsc_to_system_mul = scale.mul;
  info.tsc_shift = scale.shift;
  info.flags = flags;
  return info;
}

PvclockWallClock Kvmclock::wall_clock(const PvclockWallClock& old, uint64_t boot_ns, uint64_t realtime_ns) const {
  const uint64_t origin = realtime_ns - now(boot_ns);
  PvclockWallClock clock;
  clock.version = (old.version | 1) + 1;
  clock.sec = static_cast<uint32_t>(origin / 1'000'000'000);
  clock.nsec = static_cast<uint32_t>(origin % 1'000'000'000);
  return clock;
}

kvm_clock_data Kvmclock::get(uint64_t boot_ns, uint64_t realtime_ns, uint64_t host_tsc, bool stable) const {
  kvm_clock_data data{};
  data.clock = now(boot_ns);
  data.flags = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC | (stable ? KVM_CLOCK_TSC_STABLE : 0);
  data.realtime = realtime_ns;
  data.host_tsc = host_tsc;
  return data;
}

int Kvmclock::set(const kvm_clock_data& data, uint64_t boot_ns, uint64_t realtime_ns) {
  // What KVM_GET_CLOCK gave may be handed back as it is.
  if (data.flags & ~uint32_t{KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC | KVM_CLOCK_TSC_STABLE}) return -EINVAL;
  uint64_t clock = data.clock;
  if ((data.flags & KVM_CLOCK_REALTIME) && realtime_ns > data.realtime) clock += realtime_ns - data.realtime;
  set(boot_ns, clock);
  return 0;
}

}  // namespace vireo::softkvm
