// SPDX-License-Identifier: Apache-2.0
// Calls on softkvm's handles. They are memfds, so fcntl, dup, poll and epoll do what they do on the kernel's: nothing stands in the way. What
// has to be seen is ioctl, and the end of a descriptor, with which a VM may end.
#include <asm/ioctl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <linux/close_range.h>

#include "preload/lending.h"
#include "preload/next.h"
#include "preload/state.h"
#include "preload/uncancelled.h"
#include "preload/within.h"
#include "softkvm/softkvm.h"

using vireo::preload::used;
namespace softkvm = vireo::softkvm;

namespace {

constexpr unsigned kKvmType = 0xae, kRun = 0x80, kSetMemory = 0x46, kSetMemory2 = 0x49;  // KVMIO, KVM_RUN, KVM_SET_USER_MEMORY_REGION and its successor

// After a call that has given the number another meaning, or none.
void replaced(int fd) {
  int saved = errno;
  {
    const vireo::preload::Uncancelled uncancelled;  // a VM's end closes and joins, and dup2 is no cancellation point
    softkvm::note_replaced(fd);
  }
  errno = saved;
}
void closed(unsigned first, unsigned last) {
  // The system's limit may be a thousand million. Closing one may tell of others.
  for (unsigned fd = first; fd <= last && fd < softkvm::handle_limit(); fd++) replaced(static_cast<int>(fd));
}

}  // namespace

namespace {

[[gnu::noinline]] int other_call(int fd, unsigned request, uintptr_t argument) {
  const vireo::preload::Within within;
  if (_IOC_NR(request) == kSetMemory || _IOC_NR(request) == kSetMemory2) vireo::preload::lend_slot(fd, argument);
  return softkvm::ioctl(fd, request, argument);
}
// No signals are held here: most descriptors are none of ours, and each costs no more than before.
int close_handle(int fd) {
  const vireo::preload::Uncancelled uncancelled;
  return softkvm::close(fd);
}

// A cancelled thread leaves the kernel's KVM_RUN at once. Here it must not be unwound in the middle of guest code: it is cancelled when
// KVM_RUN has returned. No object with a destructor may live here, nor in ioctl(): glibc unwinds through them.
[[gnu::noinline]] int run_vcpu(int fd, unsigned request, uintptr_t argument) {
  int state;
  ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
  if (!vireo::preload::guests_ran.load(std::memory_order_relaxed)) vireo::preload::guests_ran.store(true, std::memory_order_relaxed);
  vireo::preload::within++;  // an allocator's call in here may not wait for who waits for this vCPU; handlers of the program's are outside
  int result = softkvm::ioctl(fd, request, argument);
  vireo::preload::within = 0;
  // What came meanwhile would have taken effect, where that is the thread's wish. pthread_testcancel sets the thread's result, which the
  // other two of glibc 2.36 do not.
  int type;
  ::pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
  ::pthread_setcancelstate(state, nullptr);
  if (type == PTHREAD_CANCEL_ASYNCHRONOUS) {
    ::pthread_testcancel();
    ::pthread_setcanceltype(type, nullptr);
  }
  return result;
}

}  // namespace

VIREO_EXPORT int pthread_cancel(pthread_t thread) {
  int result = VIREO_NEXT_AS("pthread_cancel", int(pthread_t))(thread);
  if (result == 0 && used()) softkvm::interrupt_thread(thread);
  return result;
}

VIREO_EXPORT int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  uintptr_t argument = va_arg(arguments, uintptr_t);
  va_end(arguments);
  // The kernel looks at 32 bits; programs sign-extend them.
  if (used() && _IOC_TYPE(request) == kKvmType) {
    int saved = errno;
    int result = (_IOC_NR(request) == kRun ? run_vcpu : other_call)(fd, static_cast<uint32_t>(request), argument);
    errno = saved;
    if (result >= 0) return result;
    if (result != -ENOTTY || softkvm::is_handle(fd)) {
      errno = -result;
      return -1;
    }
  }
  constexpr unsigned kVhostType = 0xaf;  // VHOST_VIRTIO
  if (used() && _IOC_TYPE(request) == kVhostType) vireo::preload::look_at_vhost(request);
  constexpr unsigned kUserfaultType = 0xaa;  // UFFDIO
  if (used() && _IOC_TYPE(request) == kUserfaultType) {
    int saved = errno;
    vireo::preload::look_at_userfault(request, argument);
    errno = saved;
  }
  return VIREO_NEXT_AS("ioctl", int(int, unsigned long, ...))(fd, request, argument);
}

VIREO_EXPORT int close(int fd) {
  if (used() && fd >= 0) {
    int saved = errno;
    int result = close_handle(fd);
    if (result == 0) {
      errno = saved;
      return 0;
    }
    if (result != -ENOTTY) {
      errno = -result;
      return -1;
    }
    errno = saved;
  }
  return VIREO_NEXT(close)(fd);
}

VIREO_EXPORT int dup2(int from, int to) noexcept {
  int result = VIREO_NEXT_AS("dup2", int(int, int))(from, to);
  if (result >= 0 && from != to && used()) replaced(to);
  return result;
}
VIREO_EXPORT int dup3(int from, int to, int flags) noexcept {
  int result = VIREO_NEXT_AS("dup3", int(int, int, int))(from, to, flags);
  if (result >= 0 && used()) replaced(to);
  return result;
}

// With CLOSE_RANGE_UNSHARE only this thread's numbers are closed; the others' are softkvm's still.
VIREO_EXPORT int close_range(unsigned first, unsigned last, int flags) noexcept {
  int result = VIREO_NEXT_AS("close_range", int(unsigned, unsigned, int))(first, last, flags);
  if (result == 0 && used() && !(flags & (CLOSE_RANGE_CLOEXEC | CLOSE_RANGE_UNSHARE))) closed(first, last);
  return result;
}
VIREO_EXPORT void closefrom(int first) noexcept {
  VIREO_NEXT_AS("closefrom", void(int))(first);
  if (used()) closed(first < 0 ? 0 : static_cast<unsigned>(first), ~0u);
}
