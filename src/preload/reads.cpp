// SPDX-License-Identifier: Apache-2.0
// System calls that fill the program's memory: an emulated disk or network card reads into guest memory by them, perhaps over code that was
// translated. The notice is given before the call returns, so before the program can tell its guest.
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload/next.h"
#include "preload/state.h"

using vireo::preload::changed;
using vireo::preload::used;

namespace {

ssize_t told(ssize_t got, const void* buffer) {
  if (got > 0) changed(buffer, static_cast<size_t>(got));
  return got;
}

ssize_t told(ssize_t got, const iovec* vectors, size_t count) {
  if (got <= 0 || !used()) return got;
  size_t left = static_cast<size_t>(got);
  for (size_t i = 0; i < count && left != 0; i++) {
    const size_t size = vectors[i].iov_len < left ? vectors[i].iov_len : left;
    changed(vectors[i].iov_base, size);
    left -= size;
  }
  return got;
}

}  // namespace

VIREO_EXPORT ssize_t read(int fd, void* buffer, size_t size) { return told(VIREO_NEXT_AS("read", ssize_t(int, void*, size_t))(fd, buffer, size), buffer); }
VIREO_EXPORT ssize_t __read_chk(int fd, void* buffer, size_t size, size_t room) {
  return told(VIREO_NEXT_AS("__read_chk", ssize_t(int, void*, size_t, size_t))(fd, buffer, size, room), buffer);
}
using Pread = ssize_t(int, void*, size_t, off_t);
VIREO_EXPORT ssize_t pread(int fd, void* buffer, size_t size, off_t at) { return told(VIREO_NEXT_AS("pread", Pread)(fd, buffer, size, at), buffer); }
VIREO_EXPORT ssize_t pread64(int fd, void* buffer, size_t size, off64_t at) { return told(VIREO_NEXT_AS("pread64", Pread)(fd, buffer, size, at), buffer); }
using PreadChecked = ssize_t(int, void*, size_t, off_t, size_t);
VIREO_EXPORT ssize_t __pread_chk(int fd, void* buffer, size_t size, off_t at, size_t room) {
  return told(VIREO_NEXT_AS("__pread_chk", PreadChecked)(fd, buffer, size, at, room), buffer);
}
VIREO_EXPORT ssize_t __pread64_chk(int fd, void* buffer, size_t size, off64_t at, size_t room) {
  return told(VIREO_NEXT_AS("__pread64_chk", PreadChecked)(fd, buffer, size, at, room), buffer);
}
VIREO_EXPORT ssize_t readv(int fd, const iovec* vectors, int count) {
  return told(VIREO_NEXT_AS("readv", ssize_t(int, const iovec*, int))(fd, vectors, count), vectors, static_cast<size_t>(count));
}
using Preadv = ssize_t(int, const iovec*, int, off_t);
VIREO_EXPORT ssize_t preadv(int fd, const iovec* vectors, int count, off_t at) {
  return told(VIREO_NEXT_AS("preadv", Preadv)(fd, vectors, count, at), vectors, static_cast<size_t>(count));
}
VIREO_EXPORT ssize_t preadv64(int fd, const iovec* vectors, int count, off64_t at) {
  return told(VIREO_NEXT_AS("preadv64", Preadv)(fd, vectors, count, at), vectors, static_cast<size_t>(count));
}
using Preadv2 = ssize_t(int, const iovec*, int, off_t, int);
VIREO_EXPORT ssize_t preadv2(int fd, const iovec* vectors, int count, off_t at, int flags) {
  return told(VIREO_NEXT_AS("preadv2", Preadv2)(fd, vectors, count, at, flags), vectors, static_cast<size_t>(count));
}
VIREO_EXPORT ssize_t preadv64v2(int fd, const iovec* vectors, int count, off64_t at, int flags) {
  return told(VIREO_NEXT_AS("preadv64v2", Preadv2)(fd, vectors, count, at, flags), vectors, static_cast<size_t>(count));
}
VIREO_EXPORT ssize_t recv(int fd, void* buffer, size_t size, int flags) {
  return told(VIREO_NEXT_AS("recv", ssize_t(int, void*, size_t, int))(fd, buffer, size, flags), buffer);
}
VIREO_EXPORT ssize_t recvfrom(int fd, void* buffer, size_t size, int flags, sockaddr* from, socklen_t* length) {
  return told(VIREO_NEXT_AS("recvfrom", ssize_t(int, void*, size_t, int, sockaddr*, socklen_t*))(fd, buffer, size, flags, from, length), buffer);
}
VIREO_EXPORT ssize_t __recv_chk(int fd, void* buffer, size_t size, size_t room, int flags) {
  return told(VIREO_NEXT_AS("__recv_chk", ssize_t(int, void*, size_t, size_t, int))(fd, buffer, size, room, flags), buffer);
}
VIREO_EXPORT ssize_t __recvfrom_chk(int fd, void* buffer, size_t size, size_t room, int flags, sockaddr* from, socklen_t* length) {
  return told(VIREO_NEXT_AS("__recvfrom_chk", ssize_t(int, void*, size_t, size_t, int, sockaddr*, socklen_t*))(fd, buffer, size, room, flags, from, length), buffer);
}
VIREO_EXPORT ssize_t recvmsg(int fd, msghdr* message, int flags) {
  const ssize_t got = VIREO_NEXT_AS("recvmsg", ssize_t(int, msghdr*, int))(fd, message, flags);
  return got > 0 ? told(got, message->msg_iov, message->msg_iovlen) : got;
}
VIREO_EXPORT int recvmmsg(int fd, mmsghdr* messages, unsigned count, int flags, timespec* timeout) {
  const int got = VIREO_NEXT_AS("recvmmsg", int(int, mmsghdr*, unsigned, int, timespec*))(fd, messages, count, flags, timeout);
  for (int i = 0; i < got; i++)
    told(static_cast<ssize_t>(messages[i].msg_len), messages[i].msg_hdr.msg_iov, messages[i].msg_hdr.msg_iovlen);
  return got;
}
