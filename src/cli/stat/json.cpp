// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/stat/sample.h"

namespace vireo::cli::stat {
namespace {

using Json = nlohmann::ordered_json;

Json counters(const kvm::StatisticsFile& file, const std::vector<uint64_t>& values, const CounterNames& names) {
  Json out = Json::object();
  size_t at = 0;
  for (const kvm::Counter& counter : file.counters()) {
    const size_t from = std::exchange(at, at + counter.count);
    if (!names.has(counter.name)) continue;
    if (counter.count == 1) out[counter.name] = values[from];
    else out[counter.name] = std::vector<uint64_t>(values.begin() + static_cast<ptrdiff_t>(from), values.begin() + static_cast<ptrdiff_t>(at));
  }
  return out;
}

}  // namespace

std::string json(const control::StatisticsGuest& guest, const Sample& now, const CounterNames& names) {
  Json out{{"process", guest.process}, {"time", now.seconds}, {"vm", Json::object()}, {"sum", Json::object()}, {"vcpus", Json::array()}};
  for (size_t file = 0; file < guest.files.size(); file++) {
    const kvm::StatisticsFile& from = guest.files[file];
    Json values = counters(from, now.values[file], names);
    if (from.vcpu() < 0) {
      out["vm"].update(values);
      continue;
    }
    Json vcpu{{"vcpu", from.vcpu()}};
    vcpu.update(values);
    out["vcpus"].push_back(std::move(vcpu));
  }
  for (const Row& row : rows_of(guest).vcpus)
    if (row.counter.count == 1 && names.has(row.counter.name)) out["sum"][row.counter.name] = row.total(now);
  return out.dump();
}

}  // namespace vireo::cli::stat
