// SPDX-License-Identifier: Apache-2.0
#include "storage/jobs/throttle.h"

#include <algorithm>

namespace vireo::storage {
namespace {

constexpr uint64_t kMost = 1'000'000'000'000'000;

bool concerns(int kind, bool write) {
  switch (kind) {
    case ThrottleConfig::kBpsRead:
    case ThrottleConfig::kIopsRead: return !write;
    case ThrottleConfig::kBpsWrite:
    case ThrottleConfig::kIopsWrite: return write;
    default: return true;
  }
}

}  // namespace

bool ThrottleConfig::any() const {
  return std::ranges::any_of(limits, [](const ThrottleLimit& l) { return l.average || l.max; });
}

Result<> ThrottleConfig::check() const {
  auto bad = [](const char* why) { return fail(ErrorKind::kInvalid, why, EINVAL); };
  for (int first : {static_cast<int>(kBpsTotal), static_cast<int>(kIopsTotal)}) {
    const auto& all = limits[static_cast<size_t>(first)];
    const auto &read = limits[static_cast<size_t>(first) + 1], &write = limits[static_cast<size_t>(first) + 2];
    if ((all.average && (read.average || write.average)) || (all.max && (read.max || write.max)))
      return bad("bps/iops/max total values and read/write values cannot be used at the same time");
  }
  for (const ThrottleLimit& l : limits) {
    if (l.average > kMost || l.max > kMost) return bad("bps/iops/max values must be within [0, 1000000000000000]");
    if (l.max && !l.average) return bad("bps_max/iops_max require corresponding bps/iops values");
    if (l.max && l.max < l.average) return bad("bps_max/iops_max cannot be lower than bps/iops");
    if (l.burst_seconds == 0) return bad("the burst length cannot be 0");
    if (l.burst_seconds > 1 && !l.max) return bad("burst length set without burst rate");
    if (l.max && l.burst_seconds > kMost / l.max) return bad("burst length too high for this burst rate");
  }
  const bool iops = limits[kIopsTotal].average || limits[kIopsRead].average || limits[kIopsWrite].average;
  if (iops_size && !iops) return bad("iops size requires an iops value to be set");
  return {};
}

void Throttle::configure(const ThrottleConfig& config, uint64_t now_ns) {
  config_ = config;
  active_ = config.any();
  buckets_ = {};
  leaked_at_ = now_ns;
}

void Throttle::leak(uint64_t now_ns) {
  if (now_ns <= leaked_at_) return;
  const double seconds = static_cast<double>(now_ns - leaked_at_) / 1e9;
  leaked_at_ = now_ns;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    Bucket& b = buckets_[i];
    b.level = std::max(b.level - static_cast<double>(config_.limits[i].average) * seconds, 0.0);
    b.burst_level = std::max(b.burst_level - static_cast<double>(config_.limits[i].max) * seconds, 0.0);
  }
}

double Throttle::wait_seconds(const ThrottleLimit& limit, const Bucket& bucket) {
  if (!limit.average) return 0;
  const auto average = static_cast<double>(limit.average), max = static_cast<double>(limit.max);
  const double holds = limit.max ? max * static_cast<double>(limit.burst_seconds) : average / 10;
  if (bucket.level > holds) return (bucket.level - holds) / average;
  if (limit.burst_seconds > 1 && bucket.burst_level > max / 10) return (bucket.burst_level - max / 10) / max;
  return 0;
}

uint64_t Throttle::wait_ns(bool write, uint64_t now_ns) {
  leak(now_ns);
  double wait = 0;
  for (size_t i = 0; i < buckets_.size(); ++i)
    if (concerns(static_cast<int>(i), write)) wait = std::max(wait, wait_seconds(config_.limits[i], buckets_[i]));
  return static_cast<uint64_t>(wait * 1e9);
}

void Throttle::account(bool write, uint64_t bytes) {
  const double requests = config_.iops_size ? std::max(1.0, static_cast<double>(bytes) / static_cast<double>(config_.iops_size)) : 1;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    if (!concerns(static_cast<int>(i), write)) continue;
    const double units = i < ThrottleConfig::kIopsTotal ? static_cast<double>(bytes) : requests;
    buckets_[i].level += units;
    if (config_.limits[i].burst_seconds > 1) buckets_[i].burst_level += units;
  }
}

}  // namespace vireo::storage
