// SPDX-License-Identifier: Apache-2.0
// Expected values: the formula of msr.rst, computed here with 128-bit arithmetic.
#include "softkvm/irqchip/kvmclock.h"

#include <gtest/gtest.h>

namespace vireo::softkvm {
namespace {

TEST(TimeScale, IsExactToAPartInABillionOrTwo) {
  for (uint64_t khz : {1'000ull, 999'999ull, 1'000'000ull, 1'000'001ull, 2'596'000ull, 3'700'123ull, 6'000'000ull}) {
    const TimeScale scale = time_scale(1'000'000'000, khz * 1000);
    for (uint64_t ticks : {khz, khz * 1000, khz * 1000 * 3600}) {
      const uint64_t exact = static_cast<uint64_t>(static_cast<unsigned __int128>(ticks) * 1'000'000 / khz);
      const uint64_t got = apply(scale, ticks);
      EXPECT_LE(got, exact + 1) << khz;
      EXPECT_LE(exact - got, 2 + exact / 1'000'000'000) << khz;
    }
  }
}

TEST(TimeScale, HasAFullMultiplier) {
  for (uint64_t khz : {500'000ull, 1'000'000ull, 2'596'000ull, 5'000'000ull})
    EXPECT_GE(time_scale(1'000'000'000, khz * 1000).mul, 1u << 31) << khz;
}

TEST(Kvmclock, GuestComputesTheVmsTime) {
  Kvmclock clock(5'000'000'000);
  const PvclockVcpuTimeInfo info = clock.vcpu_time({.version = 6}, 8'000'000'000, 1'000'000, 2'000'000, kPvclockTscStable);
  EXPECT_EQ(info.version, 8u);
  EXPECT_EQ(info.flags, 1);
  EXPECT_EQ(info.system_time, 3'000'000'000u);
  const uint64_t later = info.system_time + apply({info.tsc_to_system_mul, info.tsc_shift}, 2'000'000'000);
  EXPECT_NEAR(static_cast<double>(later), 4e9, 2);
}

TEST(Kvmclock, VersionIsAlwaysEvenAndNew) {
  Kvmclock clock(0);
  for (uint32_t old : {0u, 1u, 2u, 7u, 0xffffffffu, 0xfffffffeu}) {
    const uint32_t version = clock.vcpu_time({.version = old}, 1, 1, 1'000'000, 0).version;
    EXPECT_EQ(version % 2, 0u);
    EXPECT_NE(version, old);
  }
}

TEST(Kvmclock, WallClockIsTheTimeAtZero) {
  Kvmclock clock(1'000'000'000);
  const PvclockWallClock wall = clock.wall_clock({}, 3'500'000'000, 1'700'000'000'250'000'000);
  EXPECT_EQ(wall.sec, 1'699'999'997u);
  EXPECT_EQ(wall.nsec, 750'000'000u);
  EXPECT_EQ(wall.version, 2u);
}

TEST(Kvmclock, GetAndSet) {
  Kvmclock clock(1000);
  kvm_clock_data data = clock.get(5000, 70'000, 42, true);
  EXPECT_EQ(data.clock, 4000u);
  EXPECT_EQ(data.host_tsc, 42u);
  EXPECT_EQ(data.flags, static_cast<uint32_t>(KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC | KVM_CLOCK_TSC_STABLE));
  Kvmclock other(0);
  EXPECT_EQ(other.set(data, 100, 75'000), 0);  // 5000 ns later by the wall
  EXPECT_EQ(other.now(100), 9000u);
  data.flags = 0;
  EXPECT_EQ(other.set(data, 100, 75'000), 0);
  EXPECT_EQ(other.now(100), 4000u);
  data.flags = 1;
  EXPECT_EQ(other.set(data, 100, 75'000), -EINVAL);
}

}  // namespace
}  // namespace vireo::softkvm
