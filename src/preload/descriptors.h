// SPDX-License-Identifier: Apache-2.0
// The program's descriptors, among which ours are.
#pragma once

#include <dirent.h>
#include <fcntl.h>

#include <cstdlib>
#include <utility>

#include "base/owned_fd.h"

namespace vireo::preload {

// Not a standard stream's number, should the program have closed one: it would print into it, or put another file there.
inline OwnedFd beside_streams(int fd) {
  OwnedFd made(fd);
  return fd < 0 || fd > 2 ? std::move(made) : OwnedFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
}

// The first of the program's descriptors that `wanted` likes, or -1.
template <class Wanted>
int find_descriptor(Wanted wanted) {
  DIR* folder = ::opendir("/proc/self/fd");
  int found = -1;
  if (folder == nullptr) return found;
  while (const dirent* entry = ::readdir(folder)) {
    char* end = nullptr;
    const long fd = ::strtol(entry->d_name, &end, 10);
    if (end != entry->d_name && *end == 0 && wanted(static_cast<int>(fd))) {
      found = static_cast<int>(fd);
      break;
    }
  }
  ::closedir(folder);
  return found;
}

}  // namespace vireo::preload
