// SPDX-License-Identifier: Apache-2.0
#include "control/statistics_port.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>

namespace vireo::control {

Result<std::unique_ptr<StatisticsPort>> StatisticsPort::listen(EventLoop& loop, const std::string& path, std::vector<OwnedFd> files) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return fail(ErrorKind::kInvalid, path + ": too long for a socket's name");
  path.copy(address.sun_path, path.size());
  OwnedFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return fail_errno("socket");
  unlink(path.c_str());
  if (bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) || chmod(path.c_str(), 0600) || ::listen(socket.get(), 8))
    return fail_errno(path);
  std::unique_ptr<StatisticsPort> port(new StatisticsPort(loop, path, std::move(files), std::move(socket)));
  TRY_VOID(loop.watch(port->socket_.get(), EPOLLIN, [p = port.get()](uint32_t) { p->accept(); }));
  return port;
}

StatisticsPort::~StatisticsPort() {
  loop_.unwatch(socket_.get());
  for (auto& [fd, client] : clients_) loop_.unwatch(fd);
  unlink(path_.c_str());
}

void StatisticsPort::accept() {
  for (;;) {
    OwnedFd client(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client.valid()) {
      if (pause_.go_on(errno)) continue;
      return;
    }
    ucred peer{};
    socklen_t size = sizeof peer;
    const bool known = getsockopt(client.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && (peer.uid == geteuid() || peer.uid == 0);
    if (!known || clients_.size() >= kMostClients || !send_files(client.get())) continue;
    const int fd = client.get();
    // It is watched for its end alone; what it sends is its own waste of time.
    if (loop_.watch(fd, EPOLLRDHUP, [this, fd](uint32_t) {
          loop_.unwatch(fd);
          clients_.erase(fd);
        }))
      clients_.emplace(fd, std::move(client));
  }
}

bool StatisticsPort::send_files(int client) const {
  std::string text = kStatisticsGreeting + std::to_string(files_.size()) + "\n";
  for (size_t at = 0; at < files_.size(); at += kFilesPerMessage) {
    const size_t count = std::min(kFilesPerMessage, files_.size() - at);
    alignas(cmsghdr) char control[CMSG_SPACE(kFilesPerMessage * sizeof(int))] = {};
    iovec part{text.data(), text.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (size_t i = 0; i < count; i++) {
      const int fd = files_[at + i].get();
      memcpy(CMSG_DATA(rights) + i * sizeof fd, &fd, sizeof fd);
    }
    if (sendmsg(client, &message, MSG_NOSIGNAL) < 0) return false;
  }
  return true;
}

}  // namespace vireo::control
