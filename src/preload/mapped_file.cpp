// SPDX-License-Identifier: Apache-2.0
// Spec: proc(5), map_files and fd.
#include "preload/mapped_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdio>
#include <string>
#include <utility>

#include "preload/descriptors.h"
#include "preload/next.h"

namespace vireo::preload {

std::shared_ptr<const OwnedFd> file_of(const Mapping& m) {
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
  auto shared = [](OwnedFd fd) { return std::make_shared<const OwnedFd>(std::move(fd)); };
  if (OwnedFd fd = open(name); fd.valid()) return shared(std::move(fd));
  const int its = find_descriptor([&](int fd) {
    struct stat info;
    return ::fstat(fd, &info) == 0 && info.st_dev == m.device && info.st_ino == m.inode;
  });
  if (its < 0) return nullptr;
  OwnedFd fd = open("/proc/self/fd/" + std::to_string(its));
  return fd.valid() ? shared(std::move(fd)) : nullptr;
}

}  // namespace vireo::preload
