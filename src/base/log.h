// SPDX-License-Identifier: Apache-2.0
// Diagnostics on stderr, one line each, "vireo: message". Thread-safe. Nothing here may be called from a fast helper.
#pragma once

#include <cstdint>

namespace vireo {

enum class LogLevel { kError, kWarning, kInfo, kDebug };

void set_log_level(LogLevel level);
void set_log_prefix(const char* prefix);  // of each line; "vireo: " without this. It must live on.
LogLevel log_level();
void log(LogLevel level, const char* format, ...) __attribute__((format(printf, 2, 3)));

// A broken invariant of our own: prints the reason and stops the process.
[[noreturn]] void panic(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Limits guest-triggerable messages: true at most `per_second` times a second.
class RateLimit {
 public:
  explicit RateLimit(unsigned per_second = 5) : per_second_(per_second) {}
  bool allow();

 private:
  unsigned per_second_;
  uint64_t window_ = 0;
  unsigned used_ = 0;
};

}  // namespace vireo
