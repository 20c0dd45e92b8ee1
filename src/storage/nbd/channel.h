// SPDX-License-Identifier: Apache-2.0
// Two ways of bytes between two ends: a socket, TLS over one, or a test's.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "base/owned_fd.h"
#include "base/result.h"

namespace vireo::storage::nbd {

class Channel {
 public:
  virtual ~Channel() = default;
  // All of it, or an error; kNotFound when the other end closed before the first byte.
  virtual Result<> read(std::span<std::byte> to) = 0;
  virtual Result<> write(std::span<const std::byte> from) = 0;
  virtual void shut() = 0;  // both ways; a read or write under way ends
};

std::unique_ptr<Channel> socket_channel(OwnedFd fd);

}  // namespace vireo::storage::nbd
