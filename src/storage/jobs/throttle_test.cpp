// SPDX-License-Identifier: Apache-2.0
// Rates over time, by QEMU's docs/throttle.txt: the average holds in the long run, bursts are as long as they may be.
#include "storage/jobs/throttle.h"

#include <gtest/gtest.h>

namespace vireo::storage {
namespace {

// Requests of `bytes` as fast as they may go, for `seconds`; how many bytes went.
double flood(Throttle& throttle, double from, double seconds, uint64_t bytes, bool write = false) {
  double now = from, moved = 0;
  while (now < from + seconds) {
    const uint64_t wait = throttle.wait_ns(write, static_cast<uint64_t>(now * 1e9));
    if (wait) {
      now += static_cast<double>(wait + 1) / 1e9;
      continue;
    }
    throttle.account(write, bytes);
    moved += static_cast<double>(bytes);
  }
  return moved;
}

ThrottleConfig with(ThrottleConfig::Kind kind, ThrottleLimit limit) {
  ThrottleConfig config;
  config.limits[kind] = limit;
  return config;
}

TEST(ThrottleTest, TheAverageHoldsInTheLongRun) {
  Throttle throttle;
  throttle.configure(with(ThrottleConfig::kBpsTotal, {.average = 10'000'000}), 0);
  EXPECT_NEAR(flood(throttle, 0, 10, 65536), 100e6, 2e6);
}

TEST(ThrottleTest, RequestsAreCountedWhateverTheirSize) {
  Throttle throttle;
  throttle.configure(with(ThrottleConfig::kIopsTotal, {.average = 500}), 0);
  EXPECT_NEAR(flood(throttle, 0, 10, 4096) / 4096, 5000, 60);
  throttle.configure(with(ThrottleConfig::kIopsWrite, {.average = 500}), 0);
  EXPECT_EQ(throttle.wait_ns(false, 1), 0u);
  for (int i = 0; i < 1000; ++i) throttle.account(true, 1);
  EXPECT_GT(throttle.wait_ns(true, 1), 0u);
  EXPECT_EQ(throttle.wait_ns(false, 1), 0u);
}

TEST(ThrottleTest, LargeRequestsCountSeveralTimesWithAnIopsSize) {
  Throttle throttle;
  auto config = with(ThrottleConfig::kIopsTotal, {.average = 100});
  config.iops_size = 4096;
  throttle.configure(config, 0);
  EXPECT_NEAR(flood(throttle, 0, 10, 16384) / 16384, 250, 10);
}

// docs/throttle.txt: iops-total=100, iops-total-max=2000, iops-total-max-length=60: 2000 a second for a minute, then 100.
TEST(ThrottleTest, ABurstLastsAsLongAsItMay) {
  Throttle throttle;
  throttle.configure(with(ThrottleConfig::kIopsTotal, {.average = 100, .max = 2000, .burst_seconds = 60}), 0);
  EXPECT_NEAR(flood(throttle, 0, 10, 1), 20'000, 500);
  EXPECT_NEAR(flood(throttle, 10, 50, 1), 100'000, 8'000);
  // What leaked meanwhile made the burst a little longer.
  EXPECT_NEAR(flood(throttle, 60, 20, 1), 8'000, 1'500);
  EXPECT_NEAR(flood(throttle, 80, 60, 1), 6'000, 100);
}

TEST(ThrottleTest, WhatContradictsIsRefused) {
  auto both = with(ThrottleConfig::kBpsTotal, {.average = 1});
  both.limits[ThrottleConfig::kBpsRead].average = 1;
  EXPECT_FALSE(both.check());
  EXPECT_FALSE(with(ThrottleConfig::kBpsTotal, {.max = 5}).check());
  EXPECT_FALSE(with(ThrottleConfig::kBpsTotal, {.average = 5, .max = 4}).check());
  EXPECT_FALSE(with(ThrottleConfig::kBpsTotal, {.average = 5, .burst_seconds = 2}).check());
  EXPECT_TRUE(with(ThrottleConfig::kBpsTotal, {.average = 5, .max = 50, .burst_seconds = 2}).check());
}

}  // namespace
}  // namespace vireo::storage
