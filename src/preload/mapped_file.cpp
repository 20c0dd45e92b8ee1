// SPDX-License-Identifier: Apache-2.0
// Spec: proc(5), map_files and fd.
#include "preload/mapped_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdio>
#include <string>

#include "preload/descriptors.h"
#include "preload/next.h"

namespace vireo::preload {

OwnedFd file_of(const Mapping& m) {
  auto open = [&](const std::string& path) {
    struct stat kind;  // to open a device may do something
    if (::stat(path.c_str(), &kind) != 0 || !S_ISREG(kind.st_mode)) return OwnedFd();
    OwnedFd fd = beside_streams(VIREO_NEXT_AS("open", int(const char*, int, ...))(path.c_str(), O_RDWR | O_CLOEXEC));
    struct stat info;
    if (fd.valid() && (::fstat(fd.get(), &info) != 0 || info.st_dev != m.device || info.st_ino != m.inode || !S_ISREG(info.st_mode))) fd.reset();
    return fd;
  };
  char name[64];
  ::snprintf(name, sizeof name, "/proc/self/map_files/%zx-%zx", m.begin, m.end);
  if (OwnedFd fd = open(name); fd.valid()) return fd;
  const int its = find_descriptor([&](int fd) {
    struct stat info;
    return ::fstat(fd, &info) == 0 && info.st_dev == m.device && info.st_ino == m.inode;
  });
  return its < 0 ? OwnedFd() : open("/proc/self/fd/" + std::to_string(its));
}

}  // namespace vireo::preload
