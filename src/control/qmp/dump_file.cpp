// SPDX-License-Identifier: Apache-2.0
#include "control/qmp/dump_file.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "base/owned_fd.h"

namespace vireo::control::qmp {
namespace {

constexpr int kPatienceMs = 1000;

bool room(int file) {
  pollfd waiting{file, POLLOUT, 0};
  return poll(&waiting, 1, kPatienceMs) == 1;
}

}  // namespace

Outcome<bool> write_dump(const std::string& path, const std::string& bytes) {
  OwnedFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644));
  if (!file.valid()) return refuse("failed to open file '" + path + "': " + strerror(errno));
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t done = ::write(file.get(), bytes.data() + at, bytes.size() - at);
    if (done < 0 && (errno == EINTR || (errno == EAGAIN && room(file.get())))) continue;
    if (done <= 0) return refuse("failed to write file '" + path + "': " + strerror(errno));
    at += static_cast<size_t>(done);
  }
  return true;
}

}  // namespace vireo::control::qmp
