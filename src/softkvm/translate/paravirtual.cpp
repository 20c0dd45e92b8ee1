// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/paravirtual.h"

#include <ctime>

#include "softkvm/cpu/system.h"

namespace vireo::softkvm {
namespace {

struct [[gnu::packed]] WallClock {
  uint32_t version, sec, nsec;
};
struct [[gnu::packed]] VcpuTime {
  uint32_t version, pad;
  uint64_t tsc_timestamp, system_time;
  uint32_t tsc_to_system_mul;
  int8_t tsc_shift;
  uint8_t flags, pad2[2];
};

uint64_t now(clockid_t id) {
  timespec t;
  clock_gettime(id, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000ull + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace

void update_paravirtual(Vcpu& vcpu) {
  uint64_t system = now(CLOCK_BOOTTIME) + vcpu.vm->clock_offset.load();
  if (vcpu.msr.wall_clock) {
    uint64_t boot = now(CLOCK_REALTIME) - system;
    uint64_t at = vcpu.msr.wall_clock;
    WallClock clock{};
    vcpu.vm->read_physical(at, &clock.version, 4);
    clock.version = (clock.version | 1) + 1;
    clock.sec = static_cast<uint32_t>(boot / 1000000000ull);
    clock.nsec = static_cast<uint32_t>(boot % 1000000000ull);
    vcpu.vm->write_physical(at, &clock, sizeof clock);
    vcpu.msr.wall_clock = 0;
  }
  if (vcpu.msr.system_time & 1 && vcpu.tsc_khz) {
    uint64_t at = vcpu.msr.system_time & ~1ull;
    VcpuTime time{};
    vcpu.vm->read_physical(at, &time.version, 4);
    time.version = (time.version | 1) + 1;
    time.tsc_timestamp = guest_tsc(vcpu);
    time.system_time = system;
    // nanoseconds = (tsc << shift) * mul >> 32, with mul's top bit set
    uint64_t hz = static_cast<uint64_t>(vcpu.tsc_khz) * 1000;
    int shift = 0;
    uint64_t scaled = 1000000000ull;
    while (scaled > hz * 2 || scaled >> 32) scaled >>= 1, shift++;
    while (hz > scaled << 1) hz >>= 1, shift--;
    while (scaled >= hz) hz <<= 1, shift++;
    time.tsc_to_system_mul = static_cast<uint32_t>((static_cast<unsigned __int128>(scaled) << 32) / hz);
    time.tsc_shift = static_cast<int8_t>(shift);
    time.flags = 1;  // PVCLOCK_TSC_STABLE_BIT: all vCPUs read the host's TSC
    if (vcpu.guest_stopped) time.flags |= 2, vcpu.guest_stopped = false;
    vcpu.vm->write_physical(at, &time, sizeof time);
  }
}

}  // namespace vireo::softkvm
