// SPDX-License-Identifier: Apache-2.0
#include "virtio/vhost_user/connection.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace vireo::virtio::vhost_user {
namespace {

std::string name(Request request) { return "request " + std::to_string(static_cast<uint32_t>(request)); }

}  // namespace

Connection::Connection(OwnedFd socket) : socket_(std::move(socket)) {
  const timeval patience{.tv_sec = kPatienceSeconds, .tv_usec = 0};
  setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

Result<Connection> Connection::open(const std::string& path) {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  if (path.empty() || path.size() >= sizeof address.sun_path) return fail(ErrorKind::kInvalid, "a socket's path has 1 to 107 bytes");
  memcpy(address.sun_path, path.data(), path.size());
  OwnedFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno("socket");
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address)) return fail_errno("connect");
  return Connection(std::move(socket));
}

Result<> Connection::send(Request request, std::span<const std::byte> payload, std::span<const int> descriptors, bool acknowledged) {
  Header header{static_cast<uint32_t>(request), Header::kVersion | (acknowledged ? Header::kNeedReply : 0), static_cast<uint32_t>(payload.size())};
  iovec parts[2] = {{&header, sizeof header}, {const_cast<std::byte*>(payload.data()), payload.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMostRegions)] = {};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = payload.empty() ? 1 : 2;
  if (!descriptors.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    memcpy(CMSG_DATA(head), descriptors.data(), descriptors.size_bytes());
  }
  const size_t all = sizeof header + payload.size();
  ssize_t done;
  do done = sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
  while (done < 0 && errno == EINTR);
  if (done < 0) return fail_errno(name(request));
  if (static_cast<size_t>(done) != all) return fail(ErrorKind::kIo, name(request) + ": the back-end takes no more");
  if (!acknowledged) return {};
  auto reply = TRY(receive(request, sizeof(uint64_t)));
  uint64_t status;
  memcpy(&status, reply.data(), sizeof status);
  if (status) return fail(ErrorKind::kIo, name(request) + ": the back-end refuses it");
  return {};
}

Result<> Connection::read(std::span<std::byte> into) {
  while (!into.empty()) {
    const ssize_t got = recv(socket_.get(), into.data(), into.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return fail(ErrorKind::kIo, "the back-end does not answer");
    if (got < 0) return fail_errno("the back-end");
    if (got == 0) return fail(ErrorKind::kIo, "the back-end has closed its socket");
    into = into.subspan(static_cast<size_t>(got));
  }
  return {};
}

Result<std::vector<std::byte>> Connection::receive(Request request, size_t least) {
  Header header;
  TRY_VOID(read(std::as_writable_bytes(std::span(&header, 1))));
  if (header.request != static_cast<uint32_t>(request) || (header.flags & Header::kVersionMask) != Header::kVersion || !(header.flags & Header::kReply))
    return fail(ErrorKind::kInvalid, name(request) + ": the back-end answers something else");
  if (header.size < least || header.size > kMostPayload)
    return fail(ErrorKind::kInvalid, name(request) + ": an answer of " + std::to_string(header.size) + " bytes");
  std::vector<std::byte> payload(header.size);
  TRY_VOID(read(payload));
  return payload;
}

Result<uint64_t> Connection::ask(Request request) {
  TRY_VOID(send(request, {}));
  auto reply = TRY(receive(request, sizeof(uint64_t)));
  uint64_t value;
  memcpy(&value, reply.data(), sizeof value);
  return value;
}

}  // namespace vireo::virtio::vhost_user
