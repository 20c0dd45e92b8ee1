// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/page_sources.h"

#include <sys/mman.h>

#include <new>
#include <type_traits>

namespace vireo::softkvm {

static_assert(std::is_trivially_destructible_v<PageSource>);

PageSource* PageSources::make(uint64_t gpa) {
  if (left_ == 0) {
    void* room = mmap(nullptr, kAtOnce * sizeof(PageSource), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (room == MAP_FAILED) return nullptr;
    rooms_.push_back(static_cast<PageSource*>(room));
    left_ = kAtOnce;
  }
  auto* source = new (&rooms_.back()[kAtOnce - left_--]) PageSource;  // as mapped: zero
  source->gpa = gpa;
  source->number = count_++;
  return source;
}

void PageSources::clear() {
  for (PageSource* room : rooms_) munmap(room, kAtOnce * sizeof(PageSource));
  rooms_.clear();
  left_ = 0;
  count_ = 0;
}

}  // namespace vireo::softkvm
