// SPDX-License-Identifier: Apache-2.0
#include "storage/nbd/channel.h"

#include <sys/socket.h>

namespace vireo::storage::nbd {
namespace {

class SocketChannel final : public Channel {
 public:
  explicit SocketChannel(OwnedFd fd) : fd_(std::move(fd)) {}
  Result<> read(std::span<std::byte> to) override {
    for (size_t done = 0; done < to.size();) {
      ssize_t n = recv(fd_.get(), to.data() + done, to.size() - done, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_errno("receiving");
      if (n == 0) return fail(done ? ErrorKind::kIo : ErrorKind::kNotFound, "the other end closed the connection", ECONNRESET);
      done += static_cast<size_t>(n);
    }
    return {};
  }
  Result<> write(std::span<const std::byte> from) override {
    while (!from.empty()) {
      ssize_t n = send(fd_.get(), from.data(), from.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_errno("sending");
      from = from.subspan(static_cast<size_t>(n));
    }
    return {};
  }
  void shut() override { ::shutdown(fd_.get(), SHUT_RDWR); }

 private:
  OwnedFd fd_;
};

}  // namespace

std::unique_ptr<Channel> socket_channel(OwnedFd fd) { return std::make_unique<SocketChannel>(std::move(fd)); }

}  // namespace vireo::storage::nbd
