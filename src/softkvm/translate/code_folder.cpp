// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/code_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <memory>
#include <string_view>
#include <vector>

namespace vireo::softkvm {
namespace {

constexpr char kLockName[] = "lock";
constexpr char kTemporary[] = ".new-";
constexpr time_t kTemporaryLife = 600;  // seconds; no writer takes as long

// Empty, or why what it says is not to be trusted.
std::string distrust(const struct stat& info) {
  if (info.st_uid != ::geteuid()) return "it belongs to user " + std::to_string(info.st_uid) + ", not to " + std::to_string(::geteuid());
  if (info.st_mode & (S_IWGRP | S_IWOTH)) return "others than its owner may write to it";
  return "";
}

std::string refused(int error) {
  return error == ELOOP || error == ENOTDIR ? "it is a symbolic link, or not what it should be" : std::strerror(error);
}

}  // namespace

Result<CodeFolder> CodeFolder::open(const std::string& path, uint64_t most) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return fail_errno(path);
  OwnedFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) {
    const int error = errno;
    struct stat info;
    if ((error == ELOOP || error == ENOTDIR) && ::lstat(path.c_str(), &info) == 0)
      return fail(ErrorKind::kInvalid, path + (S_ISLNK(info.st_mode) ? ": it is a symbolic link" : ": it is no folder"), error);
    return fail_errno(path, error);
  }
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return fail_errno(path);
  if (std::string why = distrust(info); !why.empty()) return fail(ErrorKind::kInvalid, path + ": " + why, EPERM);
  return CodeFolder(std::move(fd), path, most);
}

Result<OwnedFd> CodeFolder::open_file(const std::string& name) const {
  OwnedFd fd(::openat(fd_.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) return fail(ErrorKind::kNotFound, "", ENOENT);
  if (!fd.valid()) return fail(ErrorKind::kIo, refused(errno), errno);
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return fail_errno("it cannot be looked at");
  if (!S_ISREG(info.st_mode)) return fail(ErrorKind::kInvalid, "it is no regular file", EPERM);
  if (std::string why = distrust(info); !why.empty()) return fail(ErrorKind::kInvalid, why, EPERM);
  ::futimens(fd.get(), nullptr);  // for tidy()
  return fd;
}

Result<OwnedFd> CodeFolder::lock() const {
  OwnedFd fd(::openat(fd_.get(), kLockName, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
  if (!fd.valid()) return fail_errno(kLockName);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return fail_errno(kLockName);
  return fd;
}

Result<CodeFolder::NewFile> CodeFolder::create() const {
  static std::atomic<unsigned> count{0};
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  NewFile file;
  file.temporary = kTemporary + std::to_string(::getpid()) + "-" + std::to_string(count.fetch_add(1)) + "-" + std::to_string(now.tv_nsec);
  file.fd = OwnedFd(::openat(fd_.get(), file.temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.fd.valid()) return fail_errno(path_ + "/" + file.temporary);
  return file;
}

Result<> CodeFolder::put(NewFile file, const std::string& name) const {
  if (::renameat(fd_.get(), file.temporary.c_str(), fd_.get(), name.c_str()) == 0) return {};
  const int error = errno;
  discard(file);
  return fail_errno(path_ + "/" + name, error);
}

void CodeFolder::discard(const NewFile& file) const { ::unlinkat(fd_.get(), file.temporary.c_str(), 0); }

void CodeFolder::tidy(const std::string& keep) const {
  const int again = ::openat(fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (again < 0) return;
  struct Close {
    void operator()(DIR* folder) const { ::closedir(folder); }
  };
  const std::unique_ptr<DIR, Close> folder(::fdopendir(again));
  if (!folder) {
    ::close(again);
    return;
  }
  struct Old {
    timespec used;
    uint64_t size;
    std::string name;
  };
  std::vector<Old> files;
  uint64_t sum = 0;
  const time_t now = ::time(nullptr);
  while (const dirent* entry = ::readdir(folder.get())) {
    const std::string_view name = entry->d_name;
    struct stat info;
    const bool code = name.ends_with(kSuffix), temporary = name.starts_with(kTemporary);
    if ((!code && !temporary) || ::fstatat(fd_.get(), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode)) continue;
    if (temporary) {
      if (now - info.st_mtim.tv_sec > kTemporaryLife) ::unlinkat(fd_.get(), entry->d_name, 0);
      continue;
    }
    sum += static_cast<uint64_t>(info.st_size);
    if (name != keep) files.push_back({info.st_mtim, static_cast<uint64_t>(info.st_size), std::string(name)});
  }
  std::ranges::sort(files, [](const Old& a, const Old& b) {
    return a.used.tv_sec != b.used.tv_sec ? a.used.tv_sec < b.used.tv_sec : a.used.tv_nsec < b.used.tv_nsec;
  });
  for (const Old& file : files) {
    if (sum <= most_) break;
    if (::unlinkat(fd_.get(), file.name.c_str(), 0) == 0) sum -= file.size;
  }
}

}  // namespace vireo::softkvm
