// SPDX-License-Identifier: Apache-2.0
// All counters of a machine at one moment, and how they are told.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "control/statistics_guests.h"

namespace vireo::cli::stat {

// "kvm" or "kvm/vcpu-N": the files of a machine apart, those of its vCPUs summed up by name.
struct Sample {
  double seconds = 0;                         // since 1970
  uint64_t monotonic_ns = 0;
  std::vector<std::vector<uint64_t>> values;  // of each file, as StatisticsFile::read() gives them
};

Result<Sample> take_sample(const control::StatisticsGuest& guest);

// A line of the table: a counter of the VM, or of its vCPUs.
struct Row {
  kvm::Counter counter;
  std::vector<size_t> at;  // by file: index of its first value, or kAbsent
  static constexpr size_t kAbsent = ~size_t{0};

  // Over all files: the sum, for a peak the greatest.
  uint64_t total(const Sample& sample) const;
};
struct Rows {
  std::vector<Row> vcpus, vm;
};
// Counters that several vCPUs have under one name but in different units stay apart.
Rows rows_of(const control::StatisticsGuest& guest);

// The counters that somebody wants to see: their names, or patterns as the shell has them. None: all.
struct CounterNames {
  std::vector<std::string> patterns;
  bool has(const std::string& name) const;
};
// Of these rows; an error names the pattern that none has.
Result<Rows> chosen(Rows rows, const CounterNames& names);

struct TableOptions {
  bool all = false;       // rows that are zero too
  bool per_vcpu = false;  // a column for each
};
// `before`: null where there is no interval, and so no rates.
std::string table(const control::StatisticsGuest& guest, const Rows& rows, const Sample& now, const Sample* before, const TableOptions& options);

// One line, an object.
std::string json(const control::StatisticsGuest& guest, const Sample& now, const CounterNames& names = {});

}  // namespace vireo::cli::stat
