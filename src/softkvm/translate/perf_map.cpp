// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/perf_map.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace vireo::softkvm {
namespace {

FILE* open_map() {
  if (!getenv("VIREO_PERF_MAP")) return nullptr;
  char path[64];
  snprintf(path, sizeof path, "/tmp/perf-%d.map", static_cast<int>(getpid()));
  unlink(path);  // a file of that name is left from an earlier process, or is a trap
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  return fd < 0 ? nullptr : fdopen(fd, "w");
}

}  // namespace

void perf_map_add(const void* code, size_t size, uint64_t linear, bool user) {
  static FILE* const map = open_map();
  if (!map) return;
  fprintf(map, "%llx %zx guest_%s_%llx\n", static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(code)), size, user ? "user" : "kernel",
          static_cast<unsigned long long>(linear));
  fflush(map);  // the process may be killed any time
}

}  // namespace vireo::softkvm
