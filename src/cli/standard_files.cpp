// SPDX-License-Identifier: Apache-2.0
#include "cli/standard_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <initializer_list>

namespace vireo::cli {
namespace {

int g_lost = 0;  // errno of the first flush that failed

}  // namespace

void keep_standard_files() {
  // Output is opened for reading alone: writing to it fails, as it does to what is closed. open(2) takes the lowest number, so in this order.
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDONLY) != fd) _exit(1);
}

bool flush_output() {
  errno = 0;
  if (fflush(stdout) == 0) return true;
  if (g_lost == 0) g_lost = errno;
  return false;
}

int finish_output(int status) {
  // What stdio wrote by itself, since its buffer was full, failed with is gone by now. Many a file says it again for nothing.
  if (ferror(stdout) && g_lost == 0 && write(STDOUT_FILENO, "", 0) < 0) g_lost = errno;
  if (flush_output() && !ferror(stdout)) return status;
  fprintf(stderr, "vireo: standard output: %s\n", g_lost ? strerror(g_lost) : "not all of it was written");
  return status ? status : 1;
}

}  // namespace vireo::cli
