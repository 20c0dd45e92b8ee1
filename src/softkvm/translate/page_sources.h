// SPDX-License-Identifier: Apache-2.0
// Room for PageSources, 4 KiB each and thousands in a guest's boot: mapped many at a time, since one by one they would take a page fault each.
// Not FAST. Not thread-safe.
#pragma once

#include <cstddef>
#include <vector>

#include "softkvm/translate/block.h"

namespace vireo::softkvm {

class PageSources {
 public:
  PageSources() = default;
  ~PageSources() { clear(); }
  PageSources(const PageSources&) = delete;
  PageSources& operator=(const PageSources&) = delete;

  PageSource* make(uint64_t gpa);  // nothing is known of the page; null: no memory
  void clear();                    // takes all back

 private:
  static constexpr size_t kAtOnce = 64;

  std::vector<PageSource*> rooms_;  // of kAtOnce each
  size_t left_ = 0;                 // in the last one
  uint32_t count_ = 0;
};

}  // namespace vireo::softkvm
