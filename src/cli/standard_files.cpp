// SPDX-License-Identifier: Apache-2.0
#include "cli/standard_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <initializer_list>

namespace vireo::cli {

void keep_standard_files() {
  // Output is opened for reading alone: writing to it fails, as it does to what is closed. open(2) takes the lowest number, so in this order.
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDONLY) != fd) _exit(1);
}

int finish_output(int status) {
  // What an earlier write failed with is gone by now.
  const bool failed = ferror(stdout);
  errno = 0;
  if (fflush(stdout) == 0 && !failed) return status;
  fprintf(stderr, "vireo: standard output: %s\n", errno ? strerror(errno) : "writing failed");
  return status ? status : 1;
}

}  // namespace vireo::cli
