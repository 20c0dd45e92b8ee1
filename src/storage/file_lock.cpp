// SPDX-License-Identifier: Apache-2.0
#include "storage/file_lock.h"

#include <fcntl.h>

#include "base/busy_file.h"
#include "base/log.h"

namespace vireo::storage {
namespace {

constexpr unsigned kRead = 1u << 0, kWrite = 1u << 1, kResize = 1u << 3;
constexpr unsigned kUses = 4;
constexpr off_t kDoing = 100, kRefusing = 200;

struct flock byte_lock(short type, off_t at) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  return lock;
}

bool locked_by_others(int fd, off_t at) {
  struct flock lock = byte_lock(F_WRLCK, at);
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

Result<> try_lock(int fd, bool writable, const std::string& name, bool share_writers) {
  const unsigned doing = kRead | (writable ? kWrite : 0);
  const unsigned refusing = share_writers ? 0 : kWrite | kResize;
  // All locks first, then the looks: of two programs starting together at least one sees the other.
  for (unsigned use = 0; use < kUses; ++use)
    for (auto [mask, base] : {std::pair(doing, kDoing), std::pair(refusing, kRefusing)}) {
      if (!(mask >> use & 1)) continue;
      struct flock lock = byte_lock(F_RDLCK, base + use);
      if (fcntl(fd, F_OFD_SETLK, &lock) == 0) continue;
      if (errno == EAGAIN || errno == EACCES)
        return fail(ErrorKind::kBusy, "disk '" + name + "' is in use: another program has locked it", errno);
      log(LogLevel::kWarning, "disk '%s' cannot be locked on this file system (%s); make sure nothing else writes to it",
          name.c_str(), strerror(errno));
      return {};
    }
  for (unsigned use = 0; use < kUses; ++use) {
    if (refusing >> use & 1 && locked_by_others(fd, kDoing + use))
      return fail(ErrorKind::kBusy, "disk '" + name + "' is in use: another program is writing to it", EBUSY);
    if (doing >> use & 1 && locked_by_others(fd, kRefusing + use))
      return fail(ErrorKind::kBusy,
                  "disk '" + name + "' is in use: another program has it open and does not allow " +
                      (use == 1 ? "writers (readonly=on can share it with other readers)" : "other users"),
                  EBUSY);
  }
  return {};
}

}  // namespace

Result<> lock_image(int fd, bool writable, const std::string& name, bool share_writers) {
  return while_busy([&] { return try_lock(fd, writable, name, share_writers); });
}

}  // namespace vireo::storage
