// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/eventfd.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace vireo::softkvm {

int identify_eventfd(int fd, uint64_t& id) {
  if (fcntl(fd, F_GETFD) < 0) return -EBADF;
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  OwnedFd info(open(path, O_RDONLY | O_CLOEXEC));
  char text[1024];
  const ssize_t size = info.valid() ? read(info.get(), text, sizeof text - 1) : -1;
  if (size < 0) return -EINVAL;
  text[size] = 0;
  if (strstr(text, "eventfd-count:") == nullptr) return -EINVAL;
  // Linux 5.2 and later name each eventfd; before, a descriptor is taken for its eventfd.
  const char* line = strstr(text, "eventfd-id:");
  id = line != nullptr ? strtoull(line + strlen("eventfd-id:"), nullptr, 10) : (1ull << 32) + static_cast<unsigned>(fd);
  return 0;
}

int hold_eventfd(int fd, Eventfd& held) {
  if (int error = identify_eventfd(fd, held.id); error != 0) return error;
  held.fd.reset(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  return held.fd.valid() ? 0 : -errno;
}

bool consume_eventfd(int fd) {
  // Somebody else may read it too, and it may be a blocking one.
  uint64_t count;
  iovec buffer{&count, sizeof count};
  ssize_t size = preadv2(fd, &buffer, 1, -1, RWF_NOWAIT);
  if (size < 0 && errno != EAGAIN) {  // no RWF_NOWAIT on this kernel's eventfds
    pollfd ready{fd, POLLIN, 0};
    if (poll(&ready, 1, 0) == 1) size = read(fd, &count, sizeof count);
  }
  return size == sizeof count;
}

}  // namespace vireo::softkvm
