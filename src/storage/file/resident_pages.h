// SPDX-License-Identifier: Apache-2.0
// What the host's page cache has of a file that is read past it (O_DIRECT): a base image that many machines share was often just copied or
// converted, and what lies in memory need not be asked of the disk. Nothing comes into the cache by this. Any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/owned_fd.h"

namespace vireo::storage {

class ResidentPages {
 public:
  // Null where the host cannot tell (Linux before 6.5), or the file cannot be opened again.
  static std::unique_ptr<ResidentPages> open(int file);
  // Is all of the range there now? Asks less often while it never is.
  bool has(uint64_t offset, uint64_t length);
  int fd() const { return fd_.get(); }  // reads by the page cache

 private:
  explicit ResidentPages(OwnedFd fd) : fd_(std::move(fd)) {}

  OwnedFd fd_;
  std::atomic<unsigned> missed_ = 0;  // in a row
};

}  // namespace vireo::storage
