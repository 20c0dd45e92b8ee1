// SPDX-License-Identifier: Apache-2.0
#include "preload/bounds.h"

#include <sys/mman.h>
#include <sys/types.h>

#include <cstdlib>

#include "preload/next.h"
#include "preload/range.h"

namespace vireo::preload {

Bounds::Bounds() {
  void* page = VIREO_NEXT_AS("mmap", void*(void*, size_t, int, int, int, off_t))(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) std::abort();  // not even one page
  VIREO_NEXT_AS("madvise", int(void*, size_t, int))(page, kPage, MADV_WIPEONFORK);  // Linux 4.14
  page_ = static_cast<Page*>(page);
}

}  // namespace vireo::preload
