// SPDX-License-Identifier: Apache-2.0
// The socket to a vhost-user back-end: requests with descriptors out, replies in. What comes is another process's choice: sizes are checked before
// anything is taken, and one that stays silent is given up. One thread at a time.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "virtio/vhost_user/message.h"

namespace vireo::virtio::vhost_user {

class Connection {
 public:
  static constexpr int kPatienceSeconds = 10;
  explicit Connection(OwnedFd socket);
  static Result<Connection> open(const std::string& path);

  int fd() const { return socket_.get(); }
  // `acknowledged`: the back-end answers, and 0 is good; only with kProtocolReplyAck.
  Result<> send(Request request, std::span<const std::byte> payload, std::span<const int> descriptors = {}, bool acknowledged = false);
  // A reply's payload, of `least` bytes to kMostPayload.
  Result<std::vector<std::byte>> receive(Request request, size_t least);

  template <class T>
  Result<> send_value(Request request, const T& value, std::span<const int> descriptors = {}, bool acknowledged = false) {
    return send(request, std::as_bytes(std::span(&value, 1)), descriptors, acknowledged);
  }
  Result<uint64_t> ask(Request request);

 private:
  Result<> read(std::span<std::byte> into);
  OwnedFd socket_;
};

}  // namespace vireo::virtio::vhost_user
