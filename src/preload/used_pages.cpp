// SPDX-License-Identifier: Apache-2.0
// The kernel is asked for what is in use. One before Linux 6.7 gives a word for each page instead: 3 ms for 2 GiB of which nothing is.
// Spec: Documentation/admin-guide/mm/pagemap.rst.
#include "preload/used_pages.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/types.h>

#include <algorithm>
#include <iterator>

#include "base/owned_fd.h"
#include "preload/next.h"

namespace vireo::preload {
namespace {

constexpr uintptr_t kPage = 4096;

using Parts = std::vector<std::pair<uintptr_t, uintptr_t>>;

// Younger than the headers that we are built with: struct page_region and struct pm_scan_arg of <linux/fs.h>.
struct Region {
  uint64_t start, end, categories;
};
struct Scan {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr unsigned long kScan = _IOWR('f', 16, Scan);                   // PAGEMAP_SCAN
constexpr uint64_t kPresentOrSwappedCategories = 1 << 3 | 1 << 4;      // PAGE_IS_PRESENT, PAGE_IS_SWAPPED

// Both go no further than `most`. False: it is not known, or this kernel does not tell it so.
bool scan(int pagemap, uintptr_t begin, uintptr_t end, size_t most, Parts& parts, size_t& used) {
  while (begin < end && used <= most) {
    Region regions[64];
    Scan wanted{};
    wanted.size = sizeof wanted;
    wanted.start = begin, wanted.end = end;
    wanted.vec = reinterpret_cast<uintptr_t>(regions), wanted.vec_len = std::size(regions);
    wanted.category_anyof_mask = wanted.return_mask = kPresentOrSwappedCategories;
    const int count = VIREO_NEXT_AS("ioctl", int(int, unsigned long, ...))(pagemap, kScan, &wanted);
    if (count < 0 || wanted.walk_end <= begin) return false;
    for (int i = 0; i < count; i++) {
      used += regions[i].end - regions[i].start;
      parts.emplace_back(regions[i].start, regions[i].end);
    }
    begin = wanted.walk_end;
  }
  return true;
}

bool read_words(int pagemap, uintptr_t begin, uintptr_t end, size_t most, Parts& parts, size_t& used) {
  for (uintptr_t at = begin; at < end && used <= most;) {
    uint64_t words[512];
    const size_t n = std::min<size_t>(std::size(words), (end - at) / kPage);
    const auto got = VIREO_NEXT_AS("pread", ssize_t(int, void*, size_t, off_t))(pagemap, words, n * sizeof *words, static_cast<off_t>(at / kPage * sizeof *words));
    if (got != static_cast<ssize_t>(n * sizeof *words)) return false;
    for (size_t i = 0; i < n; i++, at += kPage) {
      constexpr uint64_t kPresentOrSwapped = 3ull << 62;
      if (!(words[i] & kPresentOrSwapped)) continue;
      used += kPage;
      if (!parts.empty() && parts.back().second == at) parts.back().second += kPage;
      else parts.emplace_back(at, at + kPage);
    }
  }
  return true;
}

}  // namespace

std::optional<Parts> used_pages(uintptr_t begin, uintptr_t end, size_t most) {
  OwnedFd pagemap(VIREO_NEXT_AS("open", int(const char*, int, ...))("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  Parts parts;
  size_t used = 0;
  if (!pagemap.valid()) return std::nullopt;
  if (!scan(pagemap.get(), begin, end, most, parts, used)) {
    parts.clear(), used = 0;
    if (!read_words(pagemap.get(), begin, end, most, parts, used)) return std::nullopt;
  }
  if (used > most) return std::nullopt;
  return parts;
}

}  // namespace vireo::preload
