// SPDX-License-Identifier: Apache-2.0
// FAST: blocks are made, linked and dropped while the guest's SIMD state is live.
#include "softkvm/translate/code_cache.h"

#include <new>
#include <utility>

#include "softkvm/mmu/host_pages.h"
#include "softkvm/mmu/large_pages.h"
#include "softkvm/mmu/page_worker.h"
#include "softkvm/translate/host_state.h"
#include "softkvm/translate/layout.h"
#include "softkvm/translate/mode.h"

namespace vireo::softkvm {
namespace {

constexpr size_t kLine = 64;  // blocks start at multiples of it
constexpr size_t kManyBlocks = 4096;  // they lie all over the table, which is why it gets all of its pages then

Block*& next_on(Block& block, uint64_t page) { return block.page_next[block.gpa >> 12 != page]; }

// The bytes of a page that a block depends on.
std::pair<unsigned, unsigned> extent_on(const Block& block, uint64_t page) {
  if (!block.straddle) return {block.guest_begin, block.guest_end};
  if (block.second_page >> 12 == block.gpa >> 12) return {0, 4096};
  if (block.gpa >> 12 == page) return {block.guest_begin, 4096};
  return {0, static_cast<unsigned>(block.gpa & 0xfff) + block.straddle - 4096};
}

// The 64-byte pieces of that.
uint64_t chunks_of(const Block& block, uint64_t page) {
  const auto [from, to] = extent_on(block, page);
  uint64_t map = 0;
  for (unsigned c = from / 64; c <= (to - 1) / 64 && c < 64; c++) map |= 1ull << c;
  return map;
}

// With the lock: nobody else writes it. A locked instruction would wait for the line, which often is in no cache.
void note_used(PageSource& source, uint64_t chunks) {
  const uint64_t before = source.used.load(std::memory_order_relaxed);
  if (chunks & ~before) source.used.store(before | chunks, std::memory_order_release);
}

uint32_t page_hash(uint64_t page) { return static_cast<uint32_t>(gathered(page)); }

}  // namespace

uint8_t* CodeCache::begin(uint32_t& offset) {
  used_ = (used_ + kLine - 1) & ~(kLine - 1);
  if (full()) return nullptr;
  populate();
  offset = static_cast<uint32_t>(used_);
  return writable_ + used_;
}

template <class F>
void CodeCache::each_array(F f) {
  f(ahead_[0], blocks_, block_count_ * sizeof(Block), block_room_ * sizeof(Block));
  f(ahead_[1], sides_, side_count_ * sizeof(SideEntry), side_room_ * sizeof(SideEntry));
  f(ahead_[2], links_, link_count_ * sizeof(Link), link_room_ * sizeof(Link));
  f(ahead_[3], starts_, used_ / kLine * sizeof(uint32_t), size_ / kLine * sizeof(uint32_t));
  f(ahead_[4], nodes_, block_count_ * sizeof(BlockTable::Node), block_room_ * sizeof(BlockTable::Node));
  f(ahead_[5], reaches_, block_count_ * sizeof *reaches_, block_room_ * sizeof *reaches_);
}

// Pages for what comes next, many at a time: a page fault for each would cost more than the block that it is for. Large ones, once the cache is
// seen to be used.
void CodeCache::populate() {
  if (used_ + kBlockRoom <= populated_) return;
  const bool ahead = populate_code();
  populate_arrays();
  if (worker && ahead) ask_ahead();
}

// True: there is so much code that the worker may go ahead.
bool CodeCache::populate_code() {
  constexpr size_t kStep = 128u << 10, kSmallBeginning = 256u << 10;
  const size_t area = populated_ & ~(kLargePage - 1);
  if (populated_ >= kSmallBeginning && size_ - area >= kLargePage && !small_pages) {
    if (area == populated_) writable_[area] = 0;  // the host has nothing to do where there is no page at all
    if (make_large(writable_ + area)) {
      get_pages_to_read(executable_ + area, kLargePage);
      populated_ = area + kLargePage;
      return true;
    }
    small_pages = true;
  }
  const size_t step = size_ - populated_ < kStep ? size_ - populated_ : kStep;
  get_pages(writable_ + populated_, step);
  get_pages_to_read(executable_ + populated_, step);
  populated_ += step;
  return small_pages;
}

// The beginning of each array, where its pages are small ones (code_cache_memory.cpp): as far as it will be used when the code has come to the end of
// its own pages, if it grows as before.
void CodeCache::populate_arrays() {
  constexpr size_t kLeast = 32u << 10;
  each_array([this](Ahead& ahead, const void* array, size_t used, size_t room) {
    size_t end = (used_ ? used * populated_ / used_ : 0) + kLeast;
    if (end > kLargePage) end = kLargePage;
    if (end > room) end = room;
    end &= ~size_t{4095};
    if (end <= ahead.populated) return;
    get_pages(static_cast<const uint8_t*>(array) + ahead.populated, end - ahead.populated);
    ahead.populated = end;
  });
}

// The next area of the code and of each array, where that is near: the worker has mapped it before it is come to.
void CodeCache::ask_ahead() {
  const size_t next_area = (populated_ + kLargePage / 2) & ~(kLargePage - 1);
  if (asked_code_ != next_area && next_area >= populated_ && size_ - next_area >= kLargePage) {
    const bool asked = worker->ask(writable_ + next_area, small_pages ? PageWorker::Work::kWritable : PageWorker::Work::kLarge);
    if (asked && worker->ask(executable_ + next_area, PageWorker::Work::kRead)) asked_code_ = next_area;
  }
  each_array([this](Ahead& ahead, const void* array, size_t used, size_t room) {
    const size_t next = (used + kLargePage) & ~(kLargePage - 1);
    const uint8_t* area = static_cast<const uint8_t*>(array) + next;
    if (next - used > kLargePage / 2 || room < kLargePage || next > room - kLargePage || ahead.asked == area) return;
    if (worker->ask(area, PageWorker::Work::kWritable)) ahead.asked = area;
  });
}

bool CodeCache::full() const {
  return used_ + kBlockRoom + kLine > size_ || block_count_ == block_room_ || side_count_ + kMostSides > side_room_ ||
         link_count_ + kMostSites > link_room_ || page_count_ + 2 > kMostPages;
}

Block* CodeCache::finish(const Block& block, size_t used, std::span<const SideEntry> side, std::span<const LinkSite> sites, uint64_t looked_at) {
#ifdef VIREO_VERIFY_BLOCKS
  {
    HostState aside;
    verify(block, used, side, sites);
  }
#endif
  starts_[used_ / kLine] = static_cast<uint32_t>(block_count_) + 1;
  Block& b = *new (&blocks_[block_count_++]) Block;
  if (block_count_ == kManyBlocks) get_pages(table_, sizeof *table_);
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
  counters_.code_cache_used = used_;
  counters_.code_cache_blocks = block_count_;
  b.side = sides_ + side_count_;
  b.side_count = static_cast<uint16_t>(side.size());
  for (const SideEntry& e : side) sides_[side_count_++] = e;
  b.stored = block.stored;
  b.looked_up.store(block.looked_up.load(std::memory_order_relaxed), std::memory_order_relaxed);
  b.source = block.source;
  b.second_source = block.second_source;
  b.links = links_ + link_count_;
  b.link_count = static_cast<uint16_t>(sites.size());
  for (const LinkSite& s : sites) links_[link_count_++] = {s, nullptr, nullptr};
  b.incoming = nullptr;
  b.page_next[0] = b.page_next[1] = nullptr;
  b.next_to_tell = 0;
  const uint64_t chunks = chunks_of(b, b.gpa >> 12);
  reaches_[number_of(b)].store(looked_at & chunks, std::memory_order_relaxed);
  b.valid.store(true, std::memory_order_relaxed);
  if (b.source) note_used(*b.source, chunks);
  if (b.second_source) note_used(*b.second_source, chunks_of(b, b.second_page >> 12));
  enter(b, b.gpa);
  if (b.straddle && b.second_page >> 12 != b.gpa >> 12) enter(b, b.second_page);
  table_->enter(b);
  return &b;
}

CodeCache::Page* CodeCache::find_page(uint64_t gpa) const {
  const uint64_t name = (gpa & ~0xfffull) + 1;
  for (uint32_t i = page_hash(gpa >> 12);; i++) {
    Page& p = pages_[i % kPages];
    if (p.name == name) return &p;
    if (!p.name) return nullptr;
  }
}

CodeCache::Page* CodeCache::make_page(uint64_t gpa) {
  const uint64_t name = (gpa & ~0xfffull) + 1;
  for (uint32_t i = page_hash(gpa >> 12);; i++) {
    Page& p = pages_[i % kPages];
    if (p.name == name) return &p;
    if (p.name) continue;
    if (page_count_ >= kMostPages) return nullptr;
    page_order_[page_count_++] = i % kPages;
    p.name = name;
    return &p;
  }
}

void CodeCache::enter(Block& block, uint64_t gpa) {
  Page* page = make_page(gpa);  // there is room: begin() has looked
  next_on(block, gpa >> 12) = page->first;
  page->first = &block;
}

// One aligned 4-byte store: other vCPUs may be running through the jump.
void CodeCache::patch(uint32_t at, const Block* target, uint32_t destination) {
#ifdef VIREO_VERIFY_BLOCKS
  {
    HostState aside;
    verify_patch(at, target, destination);
  }
#endif
  auto* where = reinterpret_cast<uint32_t*>(writable_ + at);
  __atomic_store_n(where, destination - (at + 4), __ATOMIC_RELEASE);
}

Link* CodeCache::link_of(const Block* from, uint32_t at) {
  for (uint32_t i = 0; from && i < from->link_count; i++)
    if (from->links[i].site.at == at) return &from->links[i];
  return nullptr;
}

uint32_t CodeCache::mode_of(const Block& from, const LinkSite& site) { return (from.mode & ~kModeUngrouped) | (site.ungrouped ? kModeUngrouped : 0); }

void CodeCache::link_all(Block& from, const uint8_t* page) {
  for (uint32_t i = 0; i < from.link_count; i++) {
    Link& link = from.links[i];
    if (link.target) continue;
    Block* target = table_->find((from.gpa & ~0xfffull) | link.site.target, mode_of(from, link.site));
    if (target && !target->straddle) enter(from, link, *target, page);
  }
}

void CodeCache::link(uint32_t site, Block& target, const uint8_t* page) {
  Block* from = containing(site);
  Link* link = link_of(from, site);
  if (!link || link->target || !from->valid || !target.valid || target.straddle || from->gpa >> 12 != target.gpa >> 12 ||
      target.mode != mode_of(*from, link->site))
    return;
  enter(*from, *link, target, page);
}

// A block reaches more than before, and so does each whose jumps lead to it. The list is of blocks that have it to tell, by their number and one; it ends with itself.
void CodeCache::reach_more(Block& block, uint64_t pieces) {
  uint32_t first = 0;
  auto add = [&](Block& b, uint64_t more) {
    std::atomic<uint64_t>& reach = reaches_[number_of(b)];
    const uint64_t before = reach.load(std::memory_order_relaxed);
    if (!(more & ~before)) return;
    reach.store(before | more, std::memory_order_release);
    if (b.next_to_tell) return;
    const uint32_t name = number_of(b) + 1;
    b.next_to_tell = first ? first : name;
    first = name;
  };
  add(block, pieces);
  while (first) {
    Block& b = blocks_[first - 1];
    first = b.next_to_tell == first ? 0 : b.next_to_tell;
    b.next_to_tell = 0;
    for (const Link* l = b.incoming; l; l = l->next) add(*containing(l->site.at), reach(b));
  }
}

// In this order, so that another vCPU which doubts its code meanwhile either knows of the link (SureCode::to_be_settled) and of all that is reached by it, or the
// target is compared after its doubt.
void CodeCache::enter(Block& from, Link& link, Block& target, const uint8_t* page) {
  if (target.source) {
    const uint64_t reached = reach(target);
    reach_more(from, reached);
    links_made_.fetch_add(1);
    if (page && !target.source->same(page, reached & target.source->used.load(std::memory_order_relaxed))) return;
  }
  link.target = &target;
  link.next = target.incoming;
  target.incoming = &link;
  patch(link.site.at, &target, target.linked_entry[static_cast<unsigned>(link.site.flags)]);
}

void CodeCache::unlink_incoming(Block& block) {
  for (Link* l = block.incoming; l; l = l->next) {
    patch(l->site.at, nullptr, l->site.unlinked);
    l->target = nullptr;
  }
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
  counters_.code_blocks_invalidated++;
  unlink_incoming(block);
  turn_away(block);
  table_->remove(block);
}

unsigned CodeCache::rewrites(uint64_t gpa) const {
  const Page* page = find_page(gpa);
  return page ? page->rewrites : 0;
}

PageSource* CodeCache::source(uint64_t gpa) const {
  const Page* page = find_page(gpa);
  return page ? page->source : nullptr;
}

uint64_t CodeCache::invalidate_page(uint64_t gpa, unsigned size) {
  uint64_t map = 0;
  Page* page = find_page(gpa);
  if (!page || !page->first) {
    if (page && page->source) page->source->chunks = page->source->used = 0;
    return 0;
  }
  counters_.code_pages_invalidated++;
  unsigned first = gpa & 0xfff, end = first + size;
  // A page that was code is mostly data now (freed and used again): all its blocks go at once, and stores to it are plain again. Only where
  // code comes back again and again beside data is it worth keeping the blocks that were not hit.
  if (++page->rewrites <= kRewritesBeforeFine || whole_pages) first = 0, end = 4096;
  Block** at = &page->first;
  while (Block* b = *at) {
    const auto [from, to] = extent_on(*b, gpa >> 12);
    const bool hit = from < end && first < to;
    if (hit && b->valid) forget(*b);
    if (hit || !b->valid) {
      *at = next_on(*b, gpa >> 12);
      continue;
    }
    map |= chunks_of(*b, gpa >> 12);
    at = &next_on(*b, gpa >> 12);
  }
  if (page->source) {
    page->source->used = map;
    page->source->chunks.fetch_and(map);
  }
  return map;
}

void CodeCache::invalidate_all() {
  if (dropped_ == block_count_) return;
  // Programs change their slots a dozen times in a row, with few blocks made in between.
  for (; dropped_ < block_count_; dropped_++) {
    Block& b = blocks_[dropped_];
    counters_.code_blocks_invalidated += b.valid;
    b.valid = false;
    unlink_incoming(b);
    table_->empty_bucket_of(b);
  }
  for (uint32_t i = 0; i < page_count_; i++) {
    Page& page = pages_[page_order_[i]];
    page.first = nullptr;
    if (page.source) page.source->chunks = page.source->used = 0;
  }
}

const LinkSite& CodeCache::site_of_stub(uint32_t stub) const {
  const Block* from = containing(stub);
  for (uint32_t i = 0; from && i < from->link_count; i++)
    if (from->links[i].site.unlinked == stub) return from->links[i].site;
  __builtin_trap();
}

Block* CodeCache::containing(uint32_t offset) const {
  if (offset >= used_) return nullptr;
  size_t line = offset / kLine;
  while (line && !starts_[line]) line--;
  return starts_[line] ? &blocks_[starts_[line] - 1] : nullptr;
}

}  // namespace vireo::softkvm
