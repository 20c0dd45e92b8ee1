// SPDX-License-Identifier: Apache-2.0
// The code cache's parts that are ordinary C++: its memory, and the verifier's calls.
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/log.h"
#include "softkvm/mmu/large_pages.h"
#include "softkvm/translate/code_cache.h"
#include "softkvm/translate/code_names.h"
#include "softkvm/translate/verifier.h"

namespace vireo::softkvm {
namespace {

// A mapping of a file (-1: of none) at a multiple of the host's large pages, so that those can be used. Null when there is no room.
void* map_aligned(int fd, size_t bytes, int protection) {
  const int kind = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* place = mmap(nullptr, bytes + kLargePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return nullptr;
  const auto at = reinterpret_cast<uintptr_t>(place), start = (at + kLargePage - 1) & ~(kLargePage - 1);
  if (start > at) munmap(place, start - at);
  if (at + kLargePage > start) munmap(reinterpret_cast<void*>(start + bytes), at + kLargePage - start);
  void* p = mmap(reinterpret_cast<void*>(start), bytes, protection, kind | MAP_NORESERVE | MAP_FIXED, fd, 0);
  if (p != MAP_FAILED) return p;
  munmap(reinterpret_cast<void*>(start), bytes);
  return nullptr;
}

// Zeroes for an array that is filled from its start: small pages first, large ones when it has grown.
template <class T>
T* room_for(size_t count) {
  const size_t bytes = (count * sizeof(T) + 4095) & ~size_t{4095};
  void* p = map_aligned(-1, bytes, PROT_READ | PROT_WRITE);
  if (p && bytes > kLargePage) madvise(static_cast<uint8_t*>(p) + kLargePage, bytes - kLargePage, MADV_HUGEPAGE);
  return static_cast<T*>(p);
}

// Zeroes for a table that is used all over.
template <class T>
T* table_of(size_t count) {
  return static_cast<T*>(map_aligned(-1, (count * sizeof(T) + 4095) & ~size_t{4095}, PROT_READ | PROT_WRITE));
}

// The code's memory, mapped twice. Null where there is no room.
struct Views {
  void *writable = nullptr, *executable = nullptr;
};

Views file_views(size_t bytes) {
  int fd = memfd_create("vireo-code", MFD_CLOEXEC);
  Views views;
  if (fd < 0) return views;
  if (ftruncate(fd, static_cast<off_t>(bytes)) == 0) views = {map_aligned(fd, bytes, PROT_READ | PROT_WRITE), map_aligned(fd, bytes, PROT_READ | PROT_EXEC)};
  close(fd);
  return views;
}

// For perf, which looks into its map of names only for code that lies in no file: shared anonymous memory (/dev/zero by perf's name), whose
// second view is made by mremap(2) with an old size of zero.
Views anonymous_views(size_t bytes) {
  Views views{map_aligned(-1, bytes, PROT_NONE), map_aligned(-1, bytes, PROT_NONE)};
  if (!views.writable || !views.executable) return views;
  constexpr int kShared = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (mmap(views.writable, bytes, PROT_READ | PROT_WRITE, kShared, -1, 0) == MAP_FAILED ||
      mremap(views.writable, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, views.executable) == MAP_FAILED ||
      mprotect(views.executable, bytes, PROT_READ | PROT_EXEC))
    panic("code cache: %s", strerror(errno));
  return views;
}

}  // namespace

CodeCache* CodeCache::create(size_t bytes, VmCounters& counters) {
  const bool named = code_is_named();
  const Views views = named ? anonymous_views(bytes) : file_views(bytes);
  auto* cache = new CodeCache(counters);
  counters.code_cache_size = bytes;
  cache->size_ = bytes;
  cache->named = named;
  cache->block_room_ = bytes / 128;
  cache->side_room_ = bytes / 32;
  cache->link_room_ = bytes / 64;
  cache->writable_ = static_cast<uint8_t*>(views.writable);
  cache->executable_ = static_cast<uint8_t*>(views.executable);
  cache->table_ = table_of<BlockTable>(1);
  cache->blocks_ = room_for<Block>(cache->block_room_);
  cache->reaches_ = room_for<std::atomic<uint64_t>>(cache->block_room_);
  cache->sides_ = room_for<SideEntry>(cache->side_room_);
  cache->links_ = room_for<Link>(cache->link_room_);
  cache->starts_ = room_for<uint32_t>(bytes / 64);
  cache->nodes_ = room_for<BlockTable::Node>(cache->block_room_);
  cache->pages_ = table_of<Page>(kPages);
  cache->page_order_ = table_of<uint32_t>(kMostPages);
  if (cache->writable_ && cache->executable_ && cache->table_ && cache->blocks_ && cache->reaches_ && cache->sides_ && cache->links_ && cache->starts_ && cache->nodes_ &&
      cache->pages_ && cache->page_order_) {
    cache->table_->init(cache->blocks_, cache->nodes_);
    return cache;
  }
  delete cache;
  return nullptr;
}

CodeCache::~CodeCache() {
  auto give_back = [](void* p, size_t size) {
    if (p) munmap(p, size);
  };
  give_back(writable_, size_);
  give_back(executable_, size_);
  give_back(table_, sizeof(BlockTable));
  give_back(blocks_, block_room_ * sizeof(Block));
  give_back(reaches_, block_room_ * sizeof *reaches_);
  give_back(sides_, side_room_ * sizeof(SideEntry));
  give_back(links_, link_room_ * sizeof(Link));
  give_back(starts_, size_ / 64 * sizeof(uint32_t));
  give_back(nodes_, block_room_ * sizeof(BlockTable::Node));
  give_back(pages_, kPages * sizeof(Page));
  give_back(page_order_, kMostPages * sizeof(uint32_t));
}

PageSource* CodeCache::make_source(uint64_t gpa) {
  Page* page = make_page(gpa);
  if (!page) return nullptr;
  if (!page->source) page->source = sources_.make(gpa & ~0xfffull);
  return page->source;
}

void CodeCache::reset() {
  invalidate_all();
  // How often pages were overwritten stays known, as long as there is room for new ones.
  if (page_count_ > kMostPages / 2) {
    madvise(pages_, kPages * sizeof(Page), MADV_DONTNEED);
    page_count_ = 0;
  } else {
    for (uint32_t i = 0; i < page_count_; i++) pages_[page_order_[i]].source = nullptr;
  }
  madvise(starts_, size_ / 64 * sizeof(uint32_t), MADV_DONTNEED);
  sources_.clear();
  block_count_ = dropped_ = side_count_ = link_count_ = 0;
  used_ = 0;
  counters_.code_cache_flushes++;
  counters_.code_cache_used = counters_.code_cache_blocks = 0;
  generation_++;
}

#ifdef VIREO_VERIFY_BLOCKS
void CodeCache::verify(const Block& block, size_t used, std::span<const SideEntry> side, std::span<const LinkSite> sites) {
  const EmittedBlock emitted{.code = writable_ + used_, .size = used, .offset = static_cast<uint32_t>(used_),
                             .indirect_entry = block.indirect_entry, .linked_entry = block.linked_entry, .mode = block.mode,
                             .gpa = block.gpa, .side = side, .sites = sites};
  const auto count = verify_block(emitted);
  if (!count) panic("%s", describe(emitted, count.error()).c_str());
  verified_.blocks++;
  verified_.instructions += *count;
}

void CodeCache::verify_patch(uint32_t at, const Block* target, uint32_t destination) {
  const Block* from = containing(at);
  const Link* link = link_of(from, at);
  if (const auto wrong = verify_link(writable_, at, from, target, destination, link ? link->site : LinkSite{}))
    panic("verifier: jump at 0x%x of the block of guest 0x%llx, to 0x%x for guest 0x%llx: %s", at,
          from ? static_cast<unsigned long long>(from->gpa) : 0, destination, target ? static_cast<unsigned long long>(target->gpa) : 0,
          rule_text(wrong->rule));
  verified_.links++;
}
#endif

}  // namespace vireo::softkvm
