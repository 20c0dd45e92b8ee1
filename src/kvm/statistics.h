// SPDX-License-Identifier: Apache-2.0
// A file of KVM_GET_STATS_FD: what it counts, and the values of this moment. The kernel's module and softkvm give such files; one that came
// from another process is not trusted: everything in it is bounded before use.
// Spec: the kernel's Documentation/virt/kvm/api.rst, 4.133.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"

namespace vireo::kvm {

struct Counter {
  enum class Type { kCumulative, kInstant, kPeak, kLinearHistogram, kLogHistogram, kOther };
  enum class Unit { kNone, kBytes, kSeconds, kCycles, kBoolean, kOther };
  std::string name;
  Type type = Type::kOther;
  Unit unit = Unit::kOther;
  unsigned base = 10;  // a value is so many times base^exponent units
  int exponent = 0;
  uint32_t bucket_size = 0;  // of a linear histogram
  size_t count = 1;          // values: 1, or a histogram's buckets

  bool operator==(const Counter&) const = default;
};

class StatisticsFile {
 public:
  static constexpr size_t kMostCounters = 4096, kMostBuckets = 1024, kLongestName = 256;

  static Result<StatisticsFile> open(OwnedFd fd);

  const std::string& id() const { return id_; }  // "kvm-PID" or "kvm-PID/vcpu-N"
  // N of a vCPU's file, or -1.
  int vcpu() const;
  const std::vector<Counter>& counters() const { return counters_; }
  // Values in the order of the counters, a histogram's buckets one after the other.
  Result<std::vector<uint64_t>> read() const;

 private:
  OwnedFd fd_;
  std::string id_;
  std::vector<Counter> counters_;
  std::vector<uint64_t> offsets_;  // of the counters' values in the file
};

}  // namespace vireo::kvm
