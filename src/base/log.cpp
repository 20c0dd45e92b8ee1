// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace vireo {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kWarning};
std::atomic<const char*> g_prefix{"vireo: "};

void print(const char* format, va_list args) {
  char line[1024];
  vsnprintf(line, sizeof line, format, args);
  fprintf(stderr, "%s%s\n", g_prefix.load(std::memory_order_relaxed), line);
}

}  // namespace

void set_log_level(LogLevel level) { g_level = level; }
void set_log_prefix(const char* prefix) { g_prefix = prefix; }
LogLevel log_level() { return g_level; }

void log(LogLevel level, const char* format, ...) {
  if (level > g_level.load(std::memory_order_relaxed)) return;
  va_list args;
  va_start(args, format);
  print(format, args);
  va_end(args);
}

void panic(const char* format, ...) {
  va_list args;
  va_start(args, format);
  print(format, args);
  va_end(args);
  abort();
}

bool RateLimit::allow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  if (static_cast<uint64_t>(now.tv_sec) != window_) window_ = now.tv_sec, used_ = 0;
  return used_++ < per_second_;
}

}  // namespace vireo
