// SPDX-License-Identifier: Apache-2.0
// The front-end's half of a vhost-user session: what the back-end can do, guest memory and rings handed to it, rings taken back.
// Spec: the vhost-user protocol. One thread at a time.
#pragma once

#include <memory>
#include <vector>

#include "memory/guest_memory.h"
#include "virtio/queue.h"
#include "virtio/vhost_user/connection.h"

namespace vireo::virtio::vhost_user {

class FrontEnd {
 public:
  // Takes the session up: features, protocol features, ownership, number of queues.
  static Result<std::unique_ptr<FrontEnd>> negotiate(Connection connection);

  int fd() const { return connection_.fd(); }
  uint64_t features() const { return features_; }  // without kFeatureProtocol
  bool has_config() const { return protocol_ & kProtocolConfig; }
  unsigned queues() const { return queues_; }

  Result<std::vector<std::byte>> read_config(uint32_t size);
  Result<> write_config(uint32_t offset, std::span<const std::byte> bytes);

  Result<> set_features(uint64_t accepted);
  // The memory is one file, shared.
  Result<> set_memory(const GuestMemory& memory);
  struct Ring {
    unsigned index = 0;
    Queue::Config place;
    uint16_t next_available = 0;
    int kick = -1, call = -1;  // eventfds
  };
  Result<> start(const Ring& ring, const GuestMemory& memory);
  // Where the back-end is in the available ring.
  Result<uint16_t> stop(unsigned index);

 private:
  explicit FrontEnd(Connection connection) : connection_(std::move(connection)) {}
  bool acknowledges() const { return protocol_ & kProtocolReplyAck; }

  Connection connection_;
  uint64_t features_ = 0, protocol_ = 0;
  unsigned queues_ = 1;
};

}  // namespace vireo::virtio::vhost_user
