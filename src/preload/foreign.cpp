// SPDX-License-Identifier: Apache-2.0
// Who else may write the program's memory: processes that it hands the memory's file to (vhost-user), the kernel's own devices (vhost), and
// the kernel on its own time (Linux AIO, io_uring). Their writes are not told, and a guest may poll for them.
// Spec: QEMU, docs/interop/vhost-user.rst; <linux/vhost.h>; io_submit(2); liburing's struct io_uring.
#include <liburing.h>
#include <linux/aio_abi.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <initializer_list>

#include "preload/next.h"
#include "preload/state.h"
#include "softkvm/softkvm.h"

using vireo::preload::used;

namespace {

void expect() { vireo::softkvm::expect_foreign_writes(); }

// Files are what memory is mapped from; eventfds and sockets are handed over too.
bool hands_over_a_file(const msghdr& message) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(const_cast<msghdr*>(&message), c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0)) continue;
    for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      struct stat info;
      if (::fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) return true;
    }
  }
  return false;
}

void look_at(const msghdr& message) {
  if (!used() || message.msg_controllen == 0) return;
  int saved = errno;
  if (hands_over_a_file(message)) expect();
  errno = saved;
}

bool reads(const iocb& request) { return request.aio_lio_opcode == IOCB_CMD_PREAD || request.aio_lio_opcode == IOCB_CMD_PREADV; }

bool reads(const io_uring_sqe& request) {
  switch (request.opcode) {
    case IORING_OP_READV:
    case IORING_OP_READ_FIXED:
    case IORING_OP_READ:
    case IORING_OP_RECV:
    case IORING_OP_RECVMSG: return true;
    default: return false;
  }
}

// Do the requests that are about to be submitted fill memory?
void look_at(io_uring* ring) {
  if (!used()) return;
  for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; i++)
    if (reads(ring->sq.sqes[i & *ring->sq.kring_mask])) return expect();
}

// These are not libc's. A plugin that was loaded with RTLD_LOCAL calls us, but what it wants is loaded for itself only: in its own object, or in
// those that this needs. Kept loaded from then on.
void* of_caller(const char* name, const void* caller, std::initializer_list<const char*> libraries) {
  int saved = errno;
  Dl_info info, ours;
  ::dladdr(reinterpret_cast<void*>(of_caller), &ours);
  auto in = [name, &ours](const char* path) -> void* {
    void* library = ::dlopen(path, RTLD_NOLOAD | RTLD_LAZY);
    void* address = library != nullptr ? ::dlsym(library, name) : nullptr;
    Dl_info its;
    return address != nullptr && ::dladdr(address, &its) != 0 && its.dli_fbase != ours.dli_fbase ? address : nullptr;
  };
  void* found = ::dladdr(caller, &info) != 0 && info.dli_fname != nullptr ? in(info.dli_fname) : nullptr;
  for (const char* path : libraries)
    if (found == nullptr) found = in(path);
  if (found == nullptr) ::dlerror();  // ours, not the program's
  errno = saved;
  return found;
}

// Null: nobody has it.
template <class Type>
Type* next_or_callers(Type* (*next)(), std::atomic<void*>& known, const char* name, const void* caller, std::initializer_list<const char*> libraries) {
  if (void* found = known.load(std::memory_order_relaxed)) return reinterpret_cast<Type*>(found);
  if (Type* found = next()) return found;
  void* found = of_caller(name, caller, libraries);
  if (found != nullptr) known.store(found, std::memory_order_relaxed);
  return reinterpret_cast<Type*>(found);
}

}  // namespace

namespace vireo::preload {
void look_at_vhost(unsigned long request) {
  constexpr unsigned kSetMemTable = 3;  // VHOST_SET_MEM_TABLE
  if ((request & 0xff) == kSetMemTable) expect();
}
}  // namespace vireo::preload

VIREO_EXPORT ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  if (message != nullptr) look_at(*message);
  return VIREO_NEXT_AS("sendmsg", ssize_t(int, const msghdr*, int))(fd, message, flags);
}
VIREO_EXPORT int sendmmsg(int fd, mmsghdr* messages, unsigned count, int flags) {
  if (messages != nullptr)
    for (unsigned i = 0; i < count; i++) look_at(messages[i].msg_hdr);
  return VIREO_NEXT_AS("sendmmsg", int(int, mmsghdr*, unsigned, int))(fd, messages, count, flags);
}

VIREO_EXPORT int io_submit(aio_context_t context, long count, iocb** requests) {
  if (used())
    for (long i = 0; i < count; i++)
      if (reads(*requests[i])) {
        expect();
        break;
      }
  using Submit = int(aio_context_t, long, iocb**);
  static std::atomic<void*> callers;
  Submit* next = next_or_callers<Submit>([] { return VIREO_NEXT_AS("io_submit", Submit); }, callers, "io_submit", __builtin_return_address(0),
                                         {"libaio.so.1", "libaio.so.1t64"});
  if (next != nullptr) return next(context, count, requests);
  // libaio's own is no more.
  int saved = errno;
  const long result = ::syscall(SYS_io_submit, context, count, requests);
  const int code = errno;
  errno = saved;
  return result >= 0 ? static_cast<int>(result) : -code;
}

#define NEXT_OF_LIBURING(name, ...)                                                                                          \
  static std::atomic<void*> callers;                                                                                          \
  auto* next = next_or_callers<__VA_ARGS__>([] { return VIREO_NEXT_AS(#name, __VA_ARGS__); }, callers, #name,                   \
                                            __builtin_return_address(0), {"liburing.so.2", "liburing.so.1"});                   \
  if (next == nullptr) return -ENOSYS;

VIREO_EXPORT int io_uring_submit(io_uring* ring) {
  look_at(ring);
  NEXT_OF_LIBURING(io_uring_submit, int(io_uring*))
  return next(ring);
}
VIREO_EXPORT int io_uring_submit_and_wait(io_uring* ring, unsigned count) {
  look_at(ring);
  NEXT_OF_LIBURING(io_uring_submit_and_wait, int(io_uring*, unsigned))
  return next(ring, count);
}
VIREO_EXPORT int io_uring_submit_and_wait_timeout(io_uring* ring, io_uring_cqe** done, unsigned count, __kernel_timespec* timeout, sigset_t* mask) {
  look_at(ring);
  NEXT_OF_LIBURING(io_uring_submit_and_wait_timeout, int(io_uring*, io_uring_cqe**, unsigned, __kernel_timespec*, sigset_t*))
  return next(ring, done, count, timeout, mask);
}
VIREO_EXPORT int io_uring_submit_and_get_events(io_uring* ring) {
  look_at(ring);
  NEXT_OF_LIBURING(io_uring_submit_and_get_events, int(io_uring*))
  return next(ring);
}
