// SPDX-License-Identifier: Apache-2.0
#include "cli/stat/sample.h"

#include <fnmatch.h>

#include <algorithm>
#include <ctime>

namespace vireo::cli::stat {
namespace {

uint64_t now_ns(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace

Result<Sample> take_sample(const control::StatisticsGuest& guest) {
  Sample sample;
  sample.seconds = static_cast<double>(now_ns(CLOCK_REALTIME)) / 1e9;
  sample.monotonic_ns = now_ns(CLOCK_MONOTONIC);
  for (const kvm::StatisticsFile& file : guest.files) sample.values.push_back(TRY(file.read()));
  return sample;
}

uint64_t Row::total(const Sample& sample) const {
  uint64_t sum = 0;
  for (size_t file = 0; file < at.size(); file++) {
    if (at[file] == kAbsent) continue;
    for (size_t i = 0; i < counter.count; i++) {
      const uint64_t value = sample.values[file][at[file] + i];
      sum = counter.type == kvm::Counter::Type::kPeak ? std::max(sum, value) : sum + value;
    }
  }
  return sum;
}

Rows rows_of(const control::StatisticsGuest& guest) {
  Rows rows;
  for (size_t file = 0; file < guest.files.size(); file++) {
    std::vector<Row>& of = guest.files[file].vcpu() < 0 ? rows.vm : rows.vcpus;
    size_t at = 0;
    for (const kvm::Counter& counter : guest.files[file].counters()) {
      auto row = std::ranges::find(of, counter, &Row::counter);
      if (row == of.end()) row = of.insert(of.end(), Row{counter, std::vector<size_t>(guest.files.size(), Row::kAbsent)});
      row->at[file] = at;
      at += counter.count;
    }
  }
  return rows;
}

bool CounterNames::has(const std::string& name) const {
  return patterns.empty() || std::ranges::any_of(patterns, [&](const std::string& pattern) { return fnmatch(pattern.c_str(), name.c_str(), 0) == 0; });
}

Result<Rows> chosen(Rows rows, const CounterNames& names) {
  for (const std::string& pattern : names.patterns) {
    auto is = [one = CounterNames{{pattern}}](const Row& row) { return one.has(row.counter.name); };
    if (std::ranges::none_of(rows.vcpus, is) && std::ranges::none_of(rows.vm, is))
      return fail(ErrorKind::kNotFound, "stat: " + pattern + ": the machine has no such counter (see vireo stat --once --all)");
  }
  auto unwanted = [&](const Row& row) { return !names.has(row.counter.name); };
  std::erase_if(rows.vcpus, unwanted);
  std::erase_if(rows.vm, unwanted);
  return rows;
}

}  // namespace vireo::cli::stat
