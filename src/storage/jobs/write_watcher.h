// SPDX-License-Identifier: Apache-2.0
// Who must know of every change that a guest makes to its disk: jobs that copy it meanwhile, and dirty bitmaps.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>

namespace vireo::storage {

struct Change {
  enum class Kind { kData, kZeroes, kDiscard } kind = Kind::kData;
  uint64_t offset = 0, length = 0;
  std::span<const iovec> data;  // of kData
  bool may_unmap = false;
};

// Both are called by any thread that writes, for several changes at once; neither can refuse the change.
class WriteWatcher {
 public:
  virtual ~WriteWatcher() = default;
  // The bytes are about to change. May wait.
  virtual void before(uint64_t offset, uint64_t length) {}
  // They have changed; or, after a failure, may have.
  virtual void after(const Change& change, bool done) = 0;
};

}  // namespace vireo::storage
