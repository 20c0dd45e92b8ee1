// SPDX-License-Identifier: Apache-2.0
// A reference of our own to a caller's eventfd, as the kernel takes one: the caller may close its descriptor. Two descriptors of one
// eventfd have the same id.
#pragma once

#include <cstdint>

#include "base/owned_fd.h"

namespace vireo::softkvm {

struct Eventfd {
  OwnedFd fd;
  uint64_t id = 0;
};

// 0, -EBADF, or -EINVAL for a descriptor of another kind.
int identify_eventfd(int fd, uint64_t& id);
int hold_eventfd(int fd, Eventfd& held);
// Takes the count as a waiter in the kernel does. False if it was zero. Never blocks.
bool consume_eventfd(int fd);

}  // namespace vireo::softkvm
