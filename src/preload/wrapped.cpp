// SPDX-License-Identifier: Apache-2.0
// Where softkvm's own calls go: the linker's --wrap makes its references to these names references to __wrap_NAME, so that what softkvm closes,
// maps or handles does not come back to this library.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstdarg>

#include "preload/next.h"

#define HIDDEN extern "C" [[gnu::visibility("hidden")]]

HIDDEN int __wrap_close(int fd) { return VIREO_NEXT_AS("close", int(int))(fd); }
HIDDEN ssize_t __wrap_read(int fd, void* buffer, size_t size) { return VIREO_NEXT_AS("read", ssize_t(int, void*, size_t))(fd, buffer, size); }
HIDDEN ssize_t __wrap_pread(int fd, void* buffer, size_t size, off_t at) {
  return VIREO_NEXT_AS("pread", ssize_t(int, void*, size_t, off_t))(fd, buffer, size, at);
}
HIDDEN int __wrap_open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  unsigned mode = flags & O_CREAT ? va_arg(arguments, unsigned) : 0;
  va_end(arguments);
  return VIREO_NEXT_AS("open", int(const char*, int, ...))(path, flags, mode);
}
HIDDEN void* __wrap_mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) {
  return VIREO_NEXT_AS("mmap", void*(void*, size_t, int, int, int, off_t))(at, size, protection, flags, fd, offset);
}
HIDDEN int __wrap_munmap(void* at, size_t size) { return VIREO_NEXT_AS("munmap", int(void*, size_t))(at, size); }
HIDDEN int __wrap_mprotect(void* at, size_t size, int protection) { return VIREO_NEXT_AS("mprotect", int(void*, size_t, int))(at, size, protection); }
HIDDEN int __wrap_madvise(void* at, size_t size, int advice) { return VIREO_NEXT_AS("madvise", int(void*, size_t, int))(at, size, advice); }
HIDDEN int __wrap_sigaction(int number, const struct sigaction* action, struct sigaction* old) {
  return VIREO_NEXT_AS("sigaction", int(int, const struct sigaction*, struct sigaction*))(number, action, old);
}
HIDDEN sighandler_t __wrap_signal(int number, sighandler_t wanted) { return VIREO_NEXT_AS("signal", sighandler_t(int, sighandler_t))(number, wanted); }
HIDDEN int __wrap_pthread_sigmask(int how, const sigset_t* set, sigset_t* old) {
  return VIREO_NEXT_AS("pthread_sigmask", int(int, const sigset_t*, sigset_t*))(how, set, old);
}
