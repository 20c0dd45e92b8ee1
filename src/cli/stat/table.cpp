// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "cli/stat/sample.h"

namespace vireo::cli::stat {
namespace {

using Type = kvm::Counter::Type;
using Unit = kvm::Counter::Unit;
constexpr int kNameWidth = 26, kWidth = 14;

std::string print(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string print(const char* format, ...) {
  char text[128];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  return text;
}

// Three digits and a letter for a thousand, or for 1024.
std::string scaled(double value, bool binary, const char* unit) {
  static constexpr const char* kLetters[] = {"", "k", "M", "G", "T", "P"};
  const double step = binary ? 1024 : 1000;
  size_t letter = 0;
  while (value >= step && letter + 1 < std::size(kLetters)) value /= step, letter++;
  if (!letter && value == std::floor(value)) return print("%.0f %s", value, unit);
  return print("%.*f %s%s%s", value < 10 ? 2 : value < 100 ? 1 : 0, value, kLetters[letter], binary && letter ? "i" : "", unit);
}

std::string text_of(const kvm::Counter& counter, double value, bool rate) {
  value *= std::pow(counter.base, counter.exponent);
  switch (counter.unit) {
    case Unit::kBytes: return scaled(value, true, "B");
    case Unit::kSeconds: return rate ? print("%.1f %%", 100 * value) : print("%.3f s", value);
    case Unit::kCycles: return scaled(value, false, "cyc");
    default: return rate && value < 100 && value != std::floor(value) ? print("%.1f", value) : print("%.0f", value);
  }
}

bool counts(const kvm::Counter& counter) {
  return counter.type == Type::kCumulative || counter.type == Type::kLinearHistogram || counter.type == Type::kLogHistogram;
}

struct Table {
  const control::StatisticsGuest& guest;
  const Sample& now;
  const Sample* before;
  const TableOptions& options;

  double per_second(uint64_t value, uint64_t old) const {
    const double seconds = static_cast<double>(now.monotonic_ns - before->monotonic_ns) / 1e9;
    return value > old && seconds > 0 ? static_cast<double>(value - old) / seconds : 0;
  }

  std::string line(const Row& row, bool vcpus) const {
    const kvm::Counter& counter = row.counter;
    const uint64_t total = row.total(now);
    if (total == 0 && !options.all) return "";
    std::string out = print("%-*s%*s", kNameWidth, counter.name.c_str(), kWidth, text_of(counter, static_cast<double>(total), false).c_str());
    if (before) out += print("%*s", kWidth, counts(counter) ? text_of(counter, per_second(total, row.total(*before)), true).c_str() : "");
    for (size_t file = 0; vcpus && options.per_vcpu && file < row.at.size(); file++) {
      if (guest.files[file].vcpu() < 0) continue;
      std::string text = "-";
      if (row.at[file] != Row::kAbsent) {
        Row one{counter, std::vector<size_t>(row.at.size(), Row::kAbsent)};
        one.at[file] = row.at[file];
        const uint64_t value = one.total(now);
        const bool rate = before && counts(counter);
        text = text_of(counter, rate ? per_second(value, one.total(*before)) : static_cast<double>(value), rate);
      }
      out += print("%*s", kWidth, text.c_str());
    }
    return out + "\n";
  }
};

}  // namespace

std::string table(const control::StatisticsGuest& guest, const Rows& rows, const Sample& now, const Sample* before, const TableOptions& options) {
  const Table lines{guest, now, before, options};
  size_t vcpus = 0;
  for (const kvm::StatisticsFile& file : guest.files) vcpus += file.vcpu() >= 0;
  std::string head = print("%-*s%*s", kNameWidth, print("%zu vCPU%s", vcpus, vcpus == 1 ? "" : "s").c_str(), kWidth, "total");
  if (before) head += print("%*s", kWidth, "per second");
  if (options.per_vcpu)
    for (const kvm::StatisticsFile& file : guest.files)
      if (file.vcpu() >= 0) head += print("%*s", kWidth, print("vcpu %d%s", file.vcpu(), before ? "/s" : "").c_str());
  std::string out = print("machine of process %d\n\n", static_cast<int>(guest.process)) + head + "\n";
  for (const Row& row : rows.vcpus) out += lines.line(row, true);
  if (!rows.vm.empty()) out += "\nVM\n";
  for (const Row& row : rows.vm) out += lines.line(row, false);
  return out;
}

}  // namespace vireo::cli::stat
