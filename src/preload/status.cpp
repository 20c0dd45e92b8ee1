// SPDX-License-Identifier: Apache-2.0
// Programs look whether /dev/kvm is there before they open it. It is: a character device, 10:232 as the kernel's, readable and writable.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "preload/next.h"
#include "preload/state.h"

using vireo::preload::is_kvm;

namespace {

constexpr unsigned kMajor = 10, kMinor = 232, kMode = S_IFCHR | 0666;

int answer(struct stat* out) {
  std::memset(out, 0, sizeof *out);
  out->st_mode = kMode;
  out->st_nlink = 1;
  out->st_ino = kMinor;
  out->st_rdev = makedev(kMajor, kMinor);
  out->st_blksize = 4096;
  return 0;
}

int permitted(int mode) {
  if (!(mode & X_OK)) return 0;
  errno = EACCES;
  return -1;
}

}  // namespace

static_assert(sizeof(struct stat) == sizeof(struct stat64));

#define STAT(name)                                                       \
  VIREO_EXPORT int name(const char* path, struct stat* out) noexcept {   \
    if (is_kvm(path)) return answer(out);                                \
    return VIREO_NEXT_AS(#name, int(const char*, struct stat*))(path, out); \
  }
#define STAT64(name)                                                       \
  VIREO_EXPORT int name(const char* path, struct stat64* out) noexcept {   \
    if (is_kvm(path)) return answer(reinterpret_cast<struct stat*>(out));  \
    return VIREO_NEXT_AS(#name, int(const char*, struct stat64*))(path, out); \
  }
STAT(stat)
STAT(lstat)
STAT64(stat64)
STAT64(lstat64)

VIREO_EXPORT int fstatat(int directory, const char* path, struct stat* out, int flags) noexcept {
  if (is_kvm(directory, path)) return answer(out);
  return VIREO_NEXT_AS("fstatat", int(int, const char*, struct stat*, int))(directory, path, out, flags);
}
VIREO_EXPORT int fstatat64(int directory, const char* path, struct stat64* out, int flags) noexcept {
  if (is_kvm(directory, path)) return answer(reinterpret_cast<struct stat*>(out));
  return VIREO_NEXT_AS("fstatat64", int(int, const char*, struct stat64*, int))(directory, path, out, flags);
}
// Of programs built for glibc before 2.33.
#define XSTAT(name, type)                                                            \
  VIREO_EXPORT int name(int version, const char* path, struct type* out) noexcept {  \
    if (is_kvm(path)) return answer(reinterpret_cast<struct stat*>(out));            \
    return VIREO_NEXT_AS(#name, int(int, const char*, struct type*))(version, path, out); \
  }
XSTAT(__xstat, stat)
XSTAT(__xstat64, stat64)
XSTAT(__lxstat, stat)
XSTAT(__lxstat64, stat64)

VIREO_EXPORT int __fxstatat(int version, int directory, const char* path, struct stat* out, int flags) noexcept {
  if (is_kvm(directory, path)) return answer(out);
  return VIREO_NEXT_AS("__fxstatat", int(int, int, const char*, struct stat*, int))(version, directory, path, out, flags);
}
VIREO_EXPORT int __fxstatat64(int version, int directory, const char* path, struct stat64* out, int flags) noexcept {
  if (is_kvm(directory, path)) return answer(reinterpret_cast<struct stat*>(out));
  return VIREO_NEXT_AS("__fxstatat64", int(int, int, const char*, struct stat64*, int))(version, directory, path, out, flags);
}

VIREO_EXPORT int statx(int directory, const char* path, int flags, unsigned mask, struct statx* out) noexcept {
  if (!is_kvm(directory, path)) return VIREO_NEXT_AS("statx", int(int, const char*, int, unsigned, struct statx*))(directory, path, flags, mask, out);
  std::memset(out, 0, sizeof *out);
  out->stx_mask = STATX_TYPE | STATX_MODE | STATX_NLINK | STATX_UID | STATX_GID | STATX_INO;
  out->stx_mode = static_cast<uint16_t>(kMode);
  out->stx_nlink = 1;
  out->stx_ino = kMinor;
  out->stx_rdev_major = kMajor;
  out->stx_rdev_minor = kMinor;
  out->stx_blksize = 4096;
  return 0;
}

VIREO_EXPORT int access(const char* path, int mode) noexcept { return is_kvm(path) ? permitted(mode) : VIREO_NEXT_AS("access", int(const char*, int))(path, mode); }
// By the effective user; two names of one function.
VIREO_EXPORT int eaccess(const char* path, int mode) noexcept { return is_kvm(path) ? permitted(mode) : VIREO_NEXT_AS("eaccess", int(const char*, int))(path, mode); }
VIREO_EXPORT int euidaccess(const char* path, int mode) noexcept {
  return is_kvm(path) ? permitted(mode) : VIREO_NEXT_AS("euidaccess", int(const char*, int))(path, mode);
}
VIREO_EXPORT int faccessat(int directory, const char* path, int mode, int flags) noexcept {
  if (is_kvm(directory, path)) return permitted(mode);
  return VIREO_NEXT_AS("faccessat", int(int, const char*, int, int))(directory, path, mode, flags);
}
