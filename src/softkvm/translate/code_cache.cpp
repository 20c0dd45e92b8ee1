// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/code_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "softkvm/translate/verifier.h"

namespace vireo::softkvm {

CodeCache* CodeCache::create(size_t bytes) {
  int fd = memfd_create("vireo-code", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, bytes)) return nullptr;
  void* w = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  void* x = mmap(nullptr, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
  void* t = mmap(nullptr, sizeof(BlockTable), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  close(fd);
  if (w == MAP_FAILED || x == MAP_FAILED || t == MAP_FAILED) return nullptr;
  auto* cache = new CodeCache;
  cache->writable_ = static_cast<uint8_t*>(w);
  cache->executable_ = static_cast<uint8_t*>(x);
  cache->size_ = bytes;
  cache->table_ = static_cast<BlockTable*>(t);
  return cache;
}

CodeCache::~CodeCache() {
  munmap(writable_, size_);
  munmap(executable_, size_);
  munmap(table_, sizeof(BlockTable));
}

uint8_t* CodeCache::begin(size_t room, uint32_t& offset) {
  used_ = (used_ + 63) & ~size_t{63};
  if (used_ + room > size_) return nullptr;
  offset = static_cast<uint32_t>(used_);
  return writable_ + used_;
}

#ifdef VIREO_VERIFY_BLOCKS
void CodeCache::verify(const Block& block, size_t used, const std::vector<SideEntry>& side, const std::vector<LinkSite>& sites) {
  const EmittedBlock emitted{.code = writable_ + used_, .size = used, .offset = static_cast<uint32_t>(used_),
                             .indirect_entry = block.indirect_entry, .linked_entry = block.linked_entry, .mode = block.mode,
                             .gpa = block.gpa, .side = side, .sites = sites};
  const auto count = verify_block(emitted);
  if (!count) panic("%s", describe(emitted, count.error()).c_str());
  verified_.blocks++;
  verified_.instructions += *count;
}
#else
void CodeCache::verify(const Block&, size_t, const std::vector<SideEntry>&, const std::vector<LinkSite>&) {}
#endif

Block* CodeCache::finish(const Block& block, size_t used, const std::vector<SideEntry>& side, const std::vector<LinkSite>& sites) {
  verify(block, used, side, sites);
  Block& b = blocks_.emplace_back();
  b.gpa = block.gpa;
  b.straddle = block.straddle;
  for (unsigned i = 0; i < 15; i++) b.bytes[i] = block.bytes[i];
  b.mode = block.mode;
  b.guest_begin = block.guest_begin;
  b.guest_end = block.guest_end;
  b.indirect_entry = block.indirect_entry;
  b.linked_entry = block.linked_entry;
  used_ += used;
  b.code_end = static_cast<uint32_t>(used_);
  b.side = nullptr;
  b.side_count = side.size();
  if (!side.empty()) b.side = sides_.emplace_back(side).data();
  for (const LinkSite& s : sites) sites_[s.at] = s.unlinked;
  b.incoming = nullptr;
  b.valid = true;
  Block*& first = pages_[b.gpa >> 12];
  b.page_next = first;
  first = &b;
  auto& bucket = table_->bucket[BlockTable::hash(b.gpa, b.mode)];
  b.hash_next = bucket.load(std::memory_order_relaxed);
  bucket.store(&b, std::memory_order_release);
  return &b;
}

// One aligned 4-byte store: other vCPUs may be running through the jump.
void CodeCache::patch(uint32_t at, const Block* target, uint32_t destination) {
#ifdef VIREO_VERIFY_BLOCKS
  const Block* from = containing(at);
  if (const auto wrong = verify_link(writable_, at, from, target, destination, sites_.at(at)))
    panic("verifier: jump at 0x%x of the block of guest 0x%llx, to 0x%x for guest 0x%llx: %s", at,
          from ? static_cast<unsigned long long>(from->gpa) : 0, destination, target ? static_cast<unsigned long long>(target->gpa) : 0,
          rule_text(wrong->rule));
  verified_.links++;
#endif
  auto* where = reinterpret_cast<uint32_t*>(writable_ + at);
  __atomic_store_n(where, destination - (at + 4), __ATOMIC_RELEASE);
}

void CodeCache::link(uint32_t site, Block& target) {
  auto it = sites_.find(site);
  const Block* from = containing(site);
  if (it == sites_.end() || !target.valid || !from || from->mode != target.mode || from->gpa >> 12 != target.gpa >> 12) return;
  target.incoming = &links_.emplace_back(Link{site, it->second, target.incoming});
  patch(site, &target, target.linked_entry);
}

void CodeCache::unlink_incoming(Block& block) {
  for (Link* l = block.incoming; l; l = l->next) patch(l->at, nullptr, l->unlinked);
  block.incoming = nullptr;
}

void CodeCache::forget(Block& block) {
  block.valid = false;
  unlink_incoming(block);
  auto* at = &table_->bucket[BlockTable::hash(block.gpa, block.mode)];
  for (Block* b = at->load(); b; at = &b->hash_next, b = at->load())
    if (b == &block) {
      at->store(b->hash_next.load());
      break;
    }
}

uint64_t CodeCache::invalidate_page(uint64_t gpa, unsigned size) {
  uint64_t map = 0;
  auto it = pages_.find(gpa >> 12);
  if (it == pages_.end()) return 0;
  unsigned first = gpa & 0xfff, end = first + size;
  // A page that was code is mostly data now (freed and used again): all its blocks go at once, and stores to it are plain again. Only where
  // code comes back again and again beside data is it worth keeping the blocks that were not hit.
  if (++rewrites_[gpa >> 12] <= kRewritesBeforeFine) first = 0, end = 4096;
  Block** at = &it->second;
  while (Block* b = *at) {
    unsigned begin = b->guest_begin;
    if (begin < end && first < b->guest_end) {
      forget(*b);
      *at = b->page_next;
      continue;
    }
    for (unsigned c = begin / 64; c <= (b->guest_end - 1) / 64 && c < 64; c++) map |= 1ull << c;
    at = &b->page_next;
  }
  if (!it->second) pages_.erase(it);
  return map;
}

void CodeCache::invalidate_all() {
  for (Block& b : blocks_) {
    b.valid = false;
    unlink_incoming(b);
  }
  for (auto& bucket : table_->bucket) bucket.store(nullptr, std::memory_order_release);
  pages_.clear();
}

void CodeCache::reset() {
  invalidate_all();
  blocks_.clear();
  links_.clear();
  sides_.clear();
  sites_.clear();
  used_ = 0;
  generation_++;
}

const Block* CodeCache::containing(uint32_t offset) const {
  auto it = std::upper_bound(blocks_.begin(), blocks_.end(), offset, [](uint32_t o, const Block& b) { return o < b.code_end; });
  return it == blocks_.end() ? nullptr : &*it;
}

}  // namespace vireo::softkvm
