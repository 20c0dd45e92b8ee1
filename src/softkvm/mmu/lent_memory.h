// SPDX-License-Identifier: Apache-2.0
// Which files the host memory of slots is mapped from, so that it can be mapped a second time in another process. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/owned_fd.h"

namespace vireo::softkvm {

class LentMemory {
 public:
  struct Range {
    const uint8_t* host;
    uint64_t size;
    std::shared_ptr<const OwnedFd> file;
    uint64_t offset;  // of `host` in the file
  };

  // Takes a duplicate of the descriptor. 0 or -errno.
  int add(const void* host, uint64_t size, int fd, uint64_t offset);
  // Nothing of [host, host+size) is lent any more.
  void remove(const void* host, uint64_t size);

  bool empty() const { return !generation_.load(std::memory_order_acquire); }
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }  // changes with every change
  // A copy; its descriptors stay open as long as it has them.
  std::vector<Range> ranges() const;

 private:
  mutable std::mutex mutex_;
  std::vector<Range> ranges_;
  std::atomic<uint64_t> generation_{0};
};

}  // namespace vireo::softkvm
