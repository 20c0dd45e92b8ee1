// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/code_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "softkvm/translate/layout.h"
#include "softkvm/translate/mode.h"
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
  b.second_page = block.second_page;
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
  b.source = block.source;
  b.second_source = block.second_source;
  b.sites = nullptr;
  b.site_count = sites.size();
  if (!sites.empty()) b.sites = sites_.emplace_back(sites).data();
  b.incoming = nullptr;
  b.valid = true;
  enter(b, b.gpa >> 12);
  if (b.straddle && b.second_page >> 12 != b.gpa >> 12) enter(b, b.second_page >> 12);
  auto& bucket = table_->bucket[BlockTable::hash(b.gpa, b.mode)];
  b.hash_next = bucket.load(std::memory_order_relaxed);
  bucket.store(&b, std::memory_order_release);
  return &b;
}

namespace {
Block*& next_on(Block& block, uint64_t page) { return block.page_next[block.gpa >> 12 != page]; }

// The bytes of a page that a block depends on.
std::pair<unsigned, unsigned> extent_on(const Block& block, uint64_t page) {
  if (!block.straddle) return {block.guest_begin, block.guest_end};
  if (block.second_page >> 12 == block.gpa >> 12) return {0, 4096};
  if (block.gpa >> 12 == page) return {block.guest_begin, 4096};
  return {0, static_cast<unsigned>(block.gpa & 0xfff) + block.straddle - 4096};
}
}  // namespace

void CodeCache::enter(Block& block, uint64_t page) {
  Block*& first = pages_[page];
  next_on(block, page) = first;
  first = &block;
}

// One aligned 4-byte store: other vCPUs may be running through the jump.
void CodeCache::patch(uint32_t at, const Block* target, uint32_t destination) {
#ifdef VIREO_VERIFY_BLOCKS
  const Block* from = containing(at);
  const LinkSite* site = site_of(from, at);
  if (const auto wrong = verify_link(writable_, at, from, target, destination, site ? *site : LinkSite{}))
    panic("verifier: jump at 0x%x of the block of guest 0x%llx, to 0x%x for guest 0x%llx: %s", at,
          from ? static_cast<unsigned long long>(from->gpa) : 0, destination, target ? static_cast<unsigned long long>(target->gpa) : 0,
          rule_text(wrong->rule));
  verified_.links++;
#endif
  auto* where = reinterpret_cast<uint32_t*>(writable_ + at);
  __atomic_store_n(where, destination - (at + 4), __ATOMIC_RELEASE);
}

const LinkSite* CodeCache::site_of(const Block* from, uint32_t at) {
  for (uint32_t i = 0; from && i < from->site_count; i++)
    if (from->sites[i].at == at) return &from->sites[i];
  return nullptr;
}

void CodeCache::link(uint32_t site, Block& target) {
  const Block* from = containing(site);
  const LinkSite* known = site_of(from, site);
  if (!known || !target.valid || from->mode != target.mode || from->gpa >> 12 != target.gpa >> 12) return;
  target.incoming = &links_.emplace_back(Link{site, known->unlinked, target.incoming});
  patch(site, &target, target.linked_entry[static_cast<unsigned>(known->flags)]);
}

void CodeCache::unlink_incoming(Block& block) {
  for (Link* l = block.incoming; l; l = l->next) patch(l->at, nullptr, l->unlinked);
  block.incoming = nullptr;
}

// Whoever still has the indirect entry (jump caches do) looks for the new block instead. One aligned store takes the place of one
// instruction: other vCPUs may be on their way there. A step-mode block is in no jump cache, and its stub would be another.
void CodeCache::turn_away(const Block& block) {
  if (block.mode & kModeStep) return;
  const uint64_t jump = 0x2524ff65 | static_cast<uint64_t>(ENGINE_STUBS + STUB_LOOKUP * 8) << 32;  // jmp gs:[lookup]
  __atomic_store_n(reinterpret_cast<uint64_t*>(writable_ + block.indirect_entry), jump, __ATOMIC_RELEASE);
}

void CodeCache::forget(Block& block) {
  block.valid = false;
  unlink_incoming(block);
  turn_away(block);
  auto* at = &table_->bucket[BlockTable::hash(block.gpa, block.mode)];
  for (Block* b = at->load(); b; at = &b->hash_next, b = at->load())
    if (b == &block) {
      at->store(b->hash_next.load());
      break;
    }
}

PageSource* CodeCache::source(uint64_t gpa) {
  auto& made = sources_[gpa >> 12];
  if (!made) made = std::make_unique<PageSource>();
  return made.get();
}

uint64_t CodeCache::invalidate_page(uint64_t gpa, unsigned size) {
  uint64_t map = 0;
  auto source = sources_.find(gpa >> 12);
  auto it = pages_.find(gpa >> 12);
  if (it == pages_.end()) {
    if (source != sources_.end()) source->second->chunks = 0;
    return 0;
  }
  unsigned first = gpa & 0xfff, end = first + size;
  // A page that was code is mostly data now (freed and used again): all its blocks go at once, and stores to it are plain again. Only where
  // code comes back again and again beside data is it worth keeping the blocks that were not hit.
  if (++rewrites_[gpa >> 12] <= kRewritesBeforeFine) first = 0, end = 4096;
  Block** at = &it->second;
  while (Block* b = *at) {
    const auto [from, to] = extent_on(*b, gpa >> 12);
    const bool hit = from < end && first < to;
    if (hit && b->valid) forget(*b);
    if (hit || !b->valid) {
      *at = next_on(*b, gpa >> 12);
      continue;
    }
    for (unsigned c = from / 64; c <= (to - 1) / 64 && c < 64; c++) map |= 1ull << c;
    at = &next_on(*b, gpa >> 12);
  }
  if (!it->second) pages_.erase(it);
  if (source != sources_.end()) source->second->chunks.fetch_and(map);
  return map;
}

void CodeCache::invalidate_all() {
  for (Block& b : blocks_) {
    b.valid = false;
    unlink_incoming(b);
  }
  // Zeros for whoever looks meanwhile.
  madvise(table_, sizeof(BlockTable), MADV_DONTNEED);
  pages_.clear();
  for (auto& [page, source] : sources_) source->chunks = 0;
}

void CodeCache::reset() {
  invalidate_all();
  blocks_.clear();
  links_.clear();
  sides_.clear();
  sites_.clear();
  sources_.clear();
  used_ = 0;
  generation_++;
}

const Block* CodeCache::containing(uint32_t offset) const {
  auto it = std::upper_bound(blocks_.begin(), blocks_.end(), offset, [](uint32_t o, const Block& b) { return o < b.code_end; });
  return it == blocks_.end() ? nullptr : &*it;
}

}  // namespace vireo::softkvm
