// SPDX-License-Identifier: Apache-2.0
// How fast a disk may be used: leaky buckets of bytes and of requests, for reads, writes and both. A bucket leaks at the average
// rate; it holds a tenth of a second of it, or, with a burst, as much as makes `max` possible for `burst_seconds`, and then a second bucket keeps
// the burst itself to `max`. Source: QEMU's docs/throttle.txt, whose options these are.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace vireo::storage {

struct ThrottleLimit {
  uint64_t average = 0;  // a second; 0: none
  uint64_t max = 0;      // in bursts; 0: no bursts
  uint64_t burst_seconds = 1;
};

struct ThrottleConfig {
  enum Kind { kBpsTotal, kBpsRead, kBpsWrite, kIopsTotal, kIopsRead, kIopsWrite, kKinds };
  std::array<ThrottleLimit, kKinds> limits;
  uint64_t iops_size = 0;  // a request counts as one for each of so many bytes; 0: as one
  bool any() const;
  Result<> check() const;
};

class Throttle {
 public:
  void configure(const ThrottleConfig& config, uint64_t now_ns);
  const ThrottleConfig& config() const { return config_; }
  bool active() const { return active_; }
  // Nanoseconds to wait before a request may go; 0: it may now.
  uint64_t wait_ns(bool write, uint64_t now_ns);
  void account(bool write, uint64_t bytes);

 private:
  struct Bucket {
    double level = 0, burst_level = 0;
  };
  void leak(uint64_t now_ns);
  static double wait_seconds(const ThrottleLimit& limit, const Bucket& bucket);

  ThrottleConfig config_;
  bool active_ = false;
  std::array<Bucket, ThrottleConfig::kKinds> buckets_;
  uint64_t leaked_at_ = 0;
};

}  // namespace vireo::storage
