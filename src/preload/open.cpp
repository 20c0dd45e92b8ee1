// SPDX-License-Identifier: Apache-2.0
// open of /dev/kvm, by all its names. Spec: open(2); glibc's fortified forms (__open_2 ...) are libc's ABI.
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <mutex>

#include "preload/next.h"
#include "preload/state.h"
#include "softkvm/softkvm.h"

// The declarations of <fcntl.h> would make the old and the 64-bit name of a function one.
extern "C" {
int open(const char* path, int flags, ...);
int open64(const char* path, int flags, ...);
int openat(int directory, const char* path, int flags, ...);
int openat64(int directory, const char* path, int flags, ...);
int __open_2(const char* path, int flags);
int __open64_2(const char* path, int flags);
int __openat_2(int directory, const char* path, int flags);
int __openat64_2(int directory, const char* path, int flags);
int fcntl(int fd, int command, ...);
}

namespace vireo::preload {

constexpr int kTmpfile = 020200000, kCreate = 0100, kCloseOnExec = 02000000, kAccessMode = 3, kReadWrite = 2, kExclusive = 0200, kDirectory = 0200000, kPath = 010000000;  // of <fcntl.h>

std::atomic<bool> in_use{false}, guests_ran{false};
constinit thread_local unsigned within = 0;

bool is_kvm(const char* path) { return path != nullptr && path[0] == '/' && std::strcmp(path, "/dev/kvm") == 0; }
bool is_kvm(int, const char* path) { return is_kvm(path); }

int open_kvm(int flags) {
  // It is there, and is no folder.
  int refused = 0;
  if ((flags & kCreate) && (flags & kExclusive) && !(flags & kPath)) refused = EEXIST;
  else if (flags & kDirectory) refused = ENOTDIR;
  if (refused != 0) {
    errno = refused;
    return -1;
  }
  static std::once_flag once;
  std::call_once(once, [] {
    softkvm::expect_unseen_writes();
    softkvm::expect_signal_handlers();
    take_over_signals();
    softkvm::handle_limit();  // makes the table of handles, before a signal handler could be the first to ask for it
    in_use.store(true, std::memory_order_release);
  });
  int fd = softkvm::open_system();
  if (fd < 0) {
    errno = -fd;
    return -1;
  }
  if (!(flags & kCloseOnExec)) ::fcntl(fd, 2 /* F_SETFD */, 0);
  return fd;
}

}  // namespace vireo::preload

using vireo::preload::is_kvm;
using vireo::preload::open_kvm;

namespace {
bool takes_mode(int flags) {
  using namespace vireo::preload;
  return (flags & kCreate) || (flags & kTmpfile) == kTmpfile;
}
}  // namespace

#define MODE_OF(flags)                          \
  unsigned mode = 0;                            \
  if (takes_mode(flags)) {                      \
    va_list arguments;                          \
    va_start(arguments, flags);                 \
    mode = va_arg(arguments, unsigned);         \
    va_end(arguments);                          \
  }

VIREO_EXPORT int open(const char* path, int flags, ...) {
  MODE_OF(flags)
  return is_kvm(path) ? open_kvm(flags) : VIREO_NEXT(open)(path, flags, mode);
}
VIREO_EXPORT int open64(const char* path, int flags, ...) {
  MODE_OF(flags)
  return is_kvm(path) ? open_kvm(flags) : VIREO_NEXT(open64)(path, flags, mode);
}
VIREO_EXPORT int openat(int directory, const char* path, int flags, ...) {
  MODE_OF(flags)
  return is_kvm(directory, path) ? open_kvm(flags) : VIREO_NEXT(openat)(directory, path, flags, mode);
}
VIREO_EXPORT int openat64(int directory, const char* path, int flags, ...) {
  MODE_OF(flags)
  return is_kvm(directory, path) ? open_kvm(flags) : VIREO_NEXT(openat64)(directory, path, flags, mode);
}
VIREO_EXPORT int __open_2(const char* path, int flags) { return is_kvm(path) ? open_kvm(flags) : VIREO_NEXT(__open_2)(path, flags); }
VIREO_EXPORT int __open64_2(const char* path, int flags) { return is_kvm(path) ? open_kvm(flags) : VIREO_NEXT(__open64_2)(path, flags); }
VIREO_EXPORT int __openat_2(int directory, const char* path, int flags) {
  return is_kvm(directory, path) ? open_kvm(flags) : VIREO_NEXT(__openat_2)(directory, path, flags);
}
VIREO_EXPORT int __openat64_2(int directory, const char* path, int flags) {
  return is_kvm(directory, path) ? open_kvm(flags) : VIREO_NEXT(__openat64_2)(directory, path, flags);
}
