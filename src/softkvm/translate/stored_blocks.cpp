// SPDX-License-Identifier: Apache-2.0
// FAST: a block is looked for while the guest's SIMD state is live.
#include "softkvm/translate/stored_blocks.h"

namespace vireo::softkvm {
namespace {

uint64_t load8(const uint8_t* p) {
  uint64_t v;
  __builtin_memcpy(&v, p, 8);
  return v;
}
uint32_t load4(const uint8_t* p) {
  uint32_t v;
  __builtin_memcpy(&v, p, 4);
  return v;
}

bool equal(const uint8_t* a, const uint8_t* b, size_t size) {
  if (size >= 8) {
    const size_t last = size - 8;
    for (size_t i = 0; i < last; i += 8)
      if (load8(a + i) != load8(b + i)) return false;
    return load8(a + last) == load8(b + last);
  }
  for (size_t i = 0; i < size; i++)
    if (a[i] != b[i]) return false;
  return true;
}

// Writes up to seven bytes more.
void copy(uint8_t* to, const uint8_t* from, size_t size) {
#pragma GCC unroll 4
  for (size_t i = 0; i < size; i += 8) __builtin_memcpy(to + i, from + i, 8);
}

// The bytes [at, at+size) of the guest's page, all of them taken.
const uint8_t* bytes_of(PageCopy& page, unsigned at, unsigned size) {
  for (unsigned i = at; i < at + size; i += 64) page.at(i);
  return page.at(at + size - 1) - (size - 1);
}

const uint8_t* own_bytes(PageCopy& page, const Source& source, unsigned size) {
  return source.straddle ? source.straddle : bytes_of(page, source.offset, size);
}

}  // namespace

bool StoredBlocks::same(const StoredBlock& stored, PageCopy& page, const Source& source) {
  if (stored.offset != source.offset || stored.mode != source.mode || (stored.straddle != 0) != (source.straddle != nullptr)) return false;
  const uint8_t* kept = stored.source();
  unsigned at = 0, field = 0;
  for (unsigned i = 0; i < stored.range_count; i++) {
    const LookedAt& range = stored.ranges()[i];
    if (!range.size) continue;
    const uint8_t* now = i == 0 ? own_bytes(page, source, range.size) : bytes_of(page, range.at, range.size);
    unsigned from = 0;
    for (; field < stored.field_count && stored.fields()[field].at < at + range.size; field++) {
      const StoredField& f = stored.fields()[field];
      const unsigned in = f.at - at;
      if (!equal(now + from, kept + from, in - from) || !StoredField::may_become(f.kind, load4(kept + in), load4(now + in))) return false;
      from = in + 4;
    }
    if (!equal(now + from, kept + from, range.size - from)) return false;
    at += range.size;
    kept += range.size;
  }
  return true;
}

const StoredBlock* StoredBlocks::find(PageCopy& page, const Source& source) {
  const size_t ready = ready_.load(std::memory_order_acquire);
  if (!ready) return nullptr;
  // Guests mostly come to their code in the same order.
  if (next_ < ready) {
    const auto& stored = *reinterpret_cast<const StoredBlock*>(body_ + next_);
    if (same(stored, page, source)) return &stored;
  }
  const unsigned there = source.straddle ? kMaxInsnLength : 4096 - source.offset;
  const uint8_t* first = source.straddle ? source.straddle : page.at(source.offset);
  for (uint8_t size : kKeySizes) {
    if (size > there) continue;
    const uint64_t key = stored_key(source.mode, source.offset, source.straddle != nullptr, size, first);
    for (size_t i = key & (index_size_ - 1);; i = (i + 1) & (index_size_ - 1)) {
      const uint64_t entry = index_[i].load(std::memory_order_acquire);
      if (!entry) break;
      if (entry >> 32 != key >> 32) continue;
      const auto& stored = *reinterpret_cast<const StoredBlock*>(body_ + ((entry & 0xffffffff) - 1) * 8);
      if (same(stored, page, source)) return &stored;
    }
  }
  return nullptr;
}

const StoredBlock* StoredBlocks::behind(const StoredBlock& stored) const {
  if (!stored.more) return nullptr;
  const size_t offset = static_cast<size_t>(stored.bytes() - body_) + stored.size;
  return offset < ready_.load(std::memory_order_acquire) ? reinterpret_cast<const StoredBlock*>(body_ + offset) : nullptr;
}

size_t StoredBlocks::restore(const StoredBlock& stored, PageCopy& page, const Source& source, uint8_t* out, uint32_t at, Block& block, BlockNotes& notes) {
  next_ = static_cast<size_t>(stored.bytes() - body_) + stored.size;
  copy(out, stored.code(), stored.code_size);
  if (stored.patch_count) {
    const uint8_t* own = own_bytes(page, source, stored.ranges()[0].size);
    for (unsigned i = 0; i < stored.patch_count; i++) {
      const StoredPatch& patch = stored.patches()[i];
      const unsigned field = stored.fields()[patch.field].at;
      const uint32_t value = load4(out + patch.host) + (load4(own + field) - load4(stored.source() + field));
      __builtin_memcpy(out + patch.host, &value, 4);
    }
  }
  block.stored = number(stored);
  block.looked_up.store(stored.looked_up, std::memory_order_relaxed);
  block.gpa = source.gpa;
  block.mode = source.mode;
  block.straddle = stored.straddle;
  block.second_page = source.second_page;
  block.guest_begin = stored.guest_begin;
  block.guest_end = stored.guest_end;
  block.indirect_entry = at;
  for (unsigned i = 0; i < 3; i++) block.linked_entry[i] = at + stored.linked_entry[i];
  notes.instructions = stored.insns;
  notes.side_count = stored.side_count;
  for (unsigned i = 0; i < stored.side_count; i++) {
    notes.side[i] = stored.sides()[i];
    notes.side[i].host += at;
  }
  notes.site_count = stored.site_count;
  for (unsigned i = 0; i < stored.site_count; i++) {
    const LinkSite& site = stored.sites()[i];
    notes.sites[i] = {at + site.at, at + site.unlinked, site.flags, site.ungrouped, site.target};
  }
  return stored.code_size;
}

void StoredBlocks::note(const StoredBlock& stored, uint64_t gpa, bool looked_up) {
  const size_t offset = static_cast<size_t>(stored.bytes() - body_);
  if (used(offset)) return;
  used_[offset / 64] |= static_cast<uint8_t>(1u << offset / 8 % 8);
  if (!enough_notes(sizeof(MadeBlock))) return;
  auto& made = *reinterpret_cast<MadeBlock*>(made_ + made_used_);
  made.size = sizeof(MadeBlock);
  made.stored = number(stored);
  made.page = static_cast<uint32_t>(gpa >> 12);
  made.looked_up = looked_up;
  made_used_ += made.size;
}

void StoredBlocks::note(PageCopy& page, const Source& source, const BlockNotes& notes, bool looked_up) {
  if (notes.look_count > kMostLooks) return;
  unsigned bytes = 0;
  for (unsigned i = 0; i < notes.look_count; i++) bytes += notes.looks[i].size;
  const size_t size = StoredBlock::padded(sizeof(MadeBlock) + notes.look_count * sizeof(LookedAt) + bytes);
  if (!enough_notes(size + 8)) return;
  auto& made = *reinterpret_cast<MadeBlock*>(made_ + made_used_);
  made.size = static_cast<uint32_t>(size);
  made.stored = 0;
  made.mode = source.mode;
  made.page = static_cast<uint32_t>(source.gpa >> 12);
  made.looked_up = looked_up;
  made.offset = static_cast<uint16_t>(source.offset);
  made.straddle = source.straddle ? notes.looks[0].size : 0;
  made.range_count = static_cast<uint16_t>(notes.look_count);
  made.source_size = static_cast<uint16_t>(bytes);
  auto* ranges = reinterpret_cast<LookedAt*>(&made + 1);
  auto* kept = reinterpret_cast<uint8_t*>(ranges + notes.look_count);
  for (unsigned i = 0; i < notes.look_count; i++) {
    const LookedAt& look = notes.looks[i];
    ranges[i] = look;
    if (!look.size) continue;
    copy(kept, i == 0 ? own_bytes(page, source, look.size) : bytes_of(page, look.at, look.size), look.size);
    kept += look.size;
  }
  made_used_ += size;
  made_new_++;
}

}  // namespace vireo::softkvm
