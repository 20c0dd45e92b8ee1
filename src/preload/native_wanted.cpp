// SPDX-License-Identifier: Apache-2.0
// Spec: proc(5), status; seccomp(2).
#include "preload/native_wanted.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace vireo::preload {
namespace {

// How many seccomp filters this thread is under: as many as it was started with, or more, where it has confined itself (proc(5), Seccomp_filters).
unsigned filters() {
  unsigned long long count = 0;
  if (FILE* file = ::fopen("/proc/thread-self/status", "re")) {
    char* line = nullptr;
    size_t room = 0;
    while (::getline(&line, &room, file) > 0)
      if (::sscanf(line, "Seccomp_filters: %llu", &count) == 1) break;
    ::free(line);
    ::fclose(file);
  }
  return static_cast<unsigned>(count);
}
const unsigned filters_at_start = filters();

}  // namespace

bool native_wanted() {
  static const bool on = [] {
    const char* off = ::getenv("VIREO_SOFTKVM_OFF");
    const std::string list = off == nullptr ? "" : off;
    return list != "all" && ("," + list + ",").find(",native,") == std::string::npos;
  }();
  return on && filters() == filters_at_start;
}

}  // namespace vireo::preload
