// SPDX-License-Identifier: Apache-2.0
// Memory that a program has asked large pages for (madvise(2), MADV_HUGEPAGE) before it became a guest's, if it does. The kernel clears a whole large
// page at the first touch of any byte of it. Where that is seen to take long, the wish is taken back, and the rest of the memory has small
// pages. Of the whole process, as its mappings are. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace vireo::softkvm {

class LargePageWishes {
 public:
  struct Range {
    uint8_t* host;
    size_t size;
  };

  // The kernel has granted one.
  void note(void* host, size_t size);
  // Those that overlap [host, host+size), which is a guest's now. Each is told once.
  std::vector<Range> grant(const void* host, uint64_t size);
  // Takes back what guests were granted. Not FAST.
  void take_back();

 private:
  std::mutex mutex_;
  std::vector<Range> noted_, granted_;
};

LargePageWishes& large_page_wishes();

}  // namespace vireo::softkvm
