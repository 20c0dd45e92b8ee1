// SPDX-License-Identifier: Apache-2.0
// Who else may write the program's memory: processes that it hands the memory's file to (vhost-user), the kernel's own devices (vhost), and
// the kernel on its own time (Linux AIO, io_uring). Their writes are not told, and a guest may poll for them.
// Spec: QEMU, docs/interop/vhost-user.rst; <linux/vhost.h>; io_submit(2); liburing's struct io_uring.
#include <liburing.h>
#include <linux/aio_abi.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

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

}  // namespace

namespace vireo::preload {
void look_at_vhost(unsigned long request) {
  constexpr unsigned kSetMemTable = 3;  // VHOST_SET_MEM_TABLE
  if ((request & 0xff) == kSetMemTable) expect();
}
}  // namespace vireo::preload

VIREO_EXPORT ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  if (used() && message != nullptr && message->msg_controllen != 0) {
    int saved = errno;
    if (hands_over_a_file(*message)) expect();
    errno = saved;
  }
  return VIREO_NEXT_AS("sendmsg", ssize_t(int, const msghdr*, int))(fd, message, flags);
}

VIREO_EXPORT int io_submit(aio_context_t context, long count, iocb** requests) {
  if (used())
    for (long i = 0; i < count; i++)
      if (reads(*requests[i])) {
        expect();
        break;
      }
  return VIREO_NEXT_AS("io_submit", int(aio_context_t, long, iocb**))(context, count, requests);
}

VIREO_EXPORT int io_uring_submit(io_uring* ring) {
  look_at(ring);
  return VIREO_NEXT_AS("io_uring_submit", int(io_uring*))(ring);
}
VIREO_EXPORT int io_uring_submit_and_wait(io_uring* ring, unsigned count) {
  look_at(ring);
  return VIREO_NEXT_AS("io_uring_submit_and_wait", int(io_uring*, unsigned))(ring, count);
}
