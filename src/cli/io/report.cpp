// SPDX-License-Identifier: Apache-2.0
#include <cctype>
#include <cinttypes>
#include <cstdio>

#include "cli/io/session.h"

namespace vireo::cli::io {

std::string size_text(double bytes) {
  static constexpr const char* kUnits[] = {" bytes", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
  unsigned unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) bytes /= 1024, ++unit;
  char text[48];
  snprintf(text, sizeof text, "%.3f", bytes);
  std::string out = text;
  if (out.ends_with(".000")) out.resize(out.size() - 4);
  return out + kUnits[unit];
}

void report(const char* verb, const Took& took, uint64_t offset, uint64_t wanted, uint64_t done, bool for_machines) {
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - took.from).count();
  const unsigned whole = static_cast<unsigned>(seconds), hundredths = static_cast<unsigned>((seconds - whole) * 100);
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0, operations = seconds > 0 ? 1 / seconds : 0;
  if (for_machines) {
    printf("%" PRIu64 ",1,%u:%02u:%02u.%02u,%.3f,%.3f\n", done, whole / 3600, whole / 60 % 60, whole % 60, hundredths, rate, operations);
    return;
  }
  char time[32];
  if (whole >= 3600) snprintf(time, sizeof time, "%02u:%02u:%02u.%02u", whole / 3600, whole / 60 % 60, whole % 60, hundredths);
  else if (whole >= 60) snprintf(time, sizeof time, "%02u:%02u.%02u", whole / 60, whole % 60, hundredths);
  else snprintf(time, sizeof time, "%02u.%02u sec", whole, hundredths);
  printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", verb, done, wanted, offset);
  printf("%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n", size_text(static_cast<double>(done)).c_str(), time, size_text(rate).c_str(), operations);
}

void dump(std::span<const std::byte> bytes, uint64_t offset) {
  for (size_t i = 0; i < bytes.size(); i += 16) {
    auto row = bytes.subspan(i, std::min<size_t>(16, bytes.size() - i));
    printf("%08" PRIx64 ":  ", offset + i);
    for (std::byte b : row) printf("%02x ", std::to_integer<unsigned>(b));
    printf(" ");
    for (std::byte b : row) {
      int c = std::to_integer<int>(b);
      putchar(isalnum(c) ? c : '.');
    }
    putchar('\n');
  }
}

}  // namespace vireo::cli::io
