// SPDX-License-Identifier: Apache-2.0
// A block as it lies in a file of translated code (docs/code-cache.md): what it was made from, and the code with its offsets counted from the
// block's start. One record, a multiple of eight bytes: the head below, then in this order ranges, fields, patches, side entries, link sites,
// the ranges' bytes and the code, the last two padded to eight. Little-endian, as the machine that made it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "softkvm/translate/access_groups.h"
#include "softkvm/translate/block.h"
#include "softkvm/translate/translator.h"

namespace vireo::softkvm {

// A 32-bit number in the bytes that may be another one: the block's code only differs at the patches then, by as much. Kernels that put themselves
// at an address of chance write such numbers all over their code.
struct StoredField {
  enum Kind : uint16_t {
    kAddress,  // a displacement or immediate, sign-extended, that can be an address of a kernel's: 0x80000000 to 0xfeffffff
    kFar,      // a relative branch or operand, 64 KiB away and more; its sign stays
  };
  uint16_t at;  // in the ranges' bytes
  uint16_t kind;

  static uint32_t size_of(uint32_t value) { return value >> 31 ? 0 - value : value; }
  // Accesses are grouped up to a displacement, to which the place in the page is added: a block is made otherwise on its other side.
  static bool grouped(uint32_t value) { return size_of(value) < kFarthestGrouped; }
  static bool may_be(unsigned kind, uint32_t value) {
    constexpr uint32_t kLowest = 0x80000000u, kEnd = 0xff000000u, kNear = 0x10000u, kFarthest = 0x7f000000u, kPlace = 0x2000u;
    const uint32_t size = size_of(value);
    if (size + kPlace > kFarthestGrouped && size < kFarthestGrouped + kPlace) return false;
    if (kind == kAddress) return value >= kLowest && value < kEnd;
    return size >= kNear && size < kFarthest;
  }
  static bool may_become(unsigned kind, uint32_t from, uint32_t to) { return may_be(kind, to) && from >> 31 == to >> 31 && grouped(from) == grouped(to); }
};

struct StoredPatch {
  uint32_t host;  // offset in the code of the 32-bit number
  uint16_t field; // which lies in the first range, the block's own bytes
  uint16_t pad;
};

struct StoredBlock {
  uint32_t size;  // of the whole record
  uint32_t mode;
  uint32_t code_size;
  uint32_t linked_entry[3];
  uint16_t offset;  // of the first byte in its page
  uint16_t guest_begin, guest_end;
  uint16_t source_size;  // of the ranges' bytes together
  uint16_t range_count, field_count, patch_count, side_count, site_count;
  uint16_t insns;
  uint8_t straddle;
  uint8_t key_size;  // how many of the first bytes are in the key
  // From here on: not of the block itself.
  uint8_t age;       // runs of a VM that were written since it was last used
  uint8_t more;      // 1: the record behind is of the same page
  uint8_t looked_up; // 1: it was asked for by a lookup, not by a jump inside its page
  uint8_t pad[7];

  static constexpr size_t padded(size_t size) { return (size + 7) & ~size_t{7}; }
  const uint8_t* bytes() const { return reinterpret_cast<const uint8_t*>(this); }
  const LookedAt* ranges() const { return reinterpret_cast<const LookedAt*>(this + 1); }
  const StoredField* fields() const { return reinterpret_cast<const StoredField*>(ranges() + range_count); }
  const StoredPatch* patches() const { return reinterpret_cast<const StoredPatch*>(fields() + field_count); }
  const SideEntry* sides() const { return reinterpret_cast<const SideEntry*>(patches() + patch_count); }
  const LinkSite* sites() const { return reinterpret_cast<const LinkSite*>(sides() + side_count); }
  const uint8_t* source() const { return reinterpret_cast<const uint8_t*>(sites() + site_count); }
  const uint8_t* code() const { return source() + padded(source_size); }
  // The 64-byte pieces of the page that it was made from, with what PageCopy takes beside them.
  static constexpr unsigned last_taken(unsigned byte) { return byte + kMaxInsnLength - 1 < 4096 ? byte + kMaxInsnLength - 1 : 4095; }
  uint64_t chunks() const {
    uint64_t map = 0;
    for (unsigned i = 0; i < range_count; i++)
      if (const LookedAt& r = ranges()[i]; r.size && r.at + r.size <= 4096) map |= chunks_between(r.at, last_taken(r.at + r.size - 1));
    return map;
  }
  size_t wanted_size() const {
    return padded(sizeof *this + range_count * sizeof(LookedAt) + field_count * sizeof(StoredField) + patch_count * sizeof(StoredPatch) +
                  side_count * sizeof(SideEntry) + site_count * sizeof(LinkSite) + padded(source_size) + padded(code_size));
  }
};
static_assert(sizeof(StoredBlock) == 56 && sizeof(LookedAt) == 4 && sizeof(StoredField) == 4 && sizeof(StoredPatch) == 8 && sizeof(SideEntry) == 12 &&
              sizeof(LinkSite) == 12);

constexpr unsigned kMostFields = 512, kMostPatches = 1024;

// By what a block is looked for: its first bytes, as many as no field is in.
constexpr uint8_t kKeySizes[] = {8, 3, 1};
inline uint64_t stored_key(uint32_t mode, unsigned offset, bool straddle, unsigned size, const uint8_t* bytes) {
  uint64_t first = 0;
  for (unsigned i = 0; i < size; i++) first |= static_cast<uint64_t>(bytes[i]) << 8 * i;
  uint64_t key = (static_cast<uint64_t>(mode) << 24 | offset << 8 | size << 1 | straddle) * 0x9e3779b97f4a7c15ull;
  key ^= key >> 29;
  key = (key ^ first) * 0xbf58476d1ce4e5b9ull;
  return key ^ key >> 31;
}

// The record at `at`, if the `left` bytes there begin with one of which nothing is out of its bounds; else null.
inline const StoredBlock* checked_block(const uint8_t* at, size_t left) {
  if (left < sizeof(StoredBlock)) return nullptr;
  const auto& b = *reinterpret_cast<const StoredBlock*>(at);
  if (b.size > left || b.size % 8 || b.code_size > kBlockRoom || b.source_size > kMostLooks * 512u || b.range_count == 0 || b.range_count > kMostLooks ||
      b.field_count > kMostFields || b.patch_count > kMostPatches || b.side_count > kMostSides || b.site_count > kMostSites || b.wanted_size() != b.size)
    return nullptr;
  if (b.more > 1 || b.looked_up > 1) return nullptr;
  if (b.insns == 0 || b.insns > kMaxBlockInsns || b.offset >= 4096 || b.straddle > 15 || b.guest_begin > b.offset || b.guest_end <= b.guest_begin || b.guest_end > 4096)
    return nullptr;
  const LookedAt& own = b.ranges()[0];
  if (own.at != b.offset || own.size == 0) return nullptr;
  if (b.straddle ? b.range_count != 1 || own.size != b.straddle || own.at + own.size <= 4096 : own.at + own.size > 4096) return nullptr;
  unsigned sum = 0, field = 0;
  for (unsigned i = 0; i < b.range_count; i++) {
    const LookedAt& r = b.ranges()[i];
    if (i && r.at + r.size > 4096) return nullptr;
    // What make_block() has marked and copied when the block is looked for.
    if (r.at + kDependencyReach < b.offset || r.at + r.size > b.offset + kDependencyReach + 64u) return nullptr;
    unsigned from = sum;
    sum += r.size;
    for (; field < b.field_count && b.fields()[field].at < sum; field++) {
      const StoredField& f = b.fields()[field];
      if (f.kind > StoredField::kFar || f.at < from || f.at + 4u > sum) return nullptr;
      from = f.at + 4u;
    }
  }
  if (sum != b.source_size || field != b.field_count) return nullptr;
  const unsigned free = b.field_count && b.fields()[0].at < own.size ? b.fields()[0].at : own.size;  // bytes in front of the first field
  bool key = false;
  for (uint8_t size : kKeySizes) key |= size == b.key_size;
  if (!key || b.key_size > free) return nullptr;
  for (unsigned i = 0; i < b.patch_count; i++)
    if (b.patches()[i].field >= b.field_count || b.fields()[b.patches()[i].field].at >= own.size || b.patches()[i].host + 4ull > b.code_size) return nullptr;
  for (uint32_t entry : b.linked_entry)
    if (entry >= b.code_size) return nullptr;
  for (unsigned i = 0; i < b.side_count; i++) {
    const SideEntry& e = b.sides()[i];
    if (e.host >= b.code_size || e.guest >= 4096 || e.host_flags > 1 || e.borrowed > 15) return nullptr;
    for (uint8_t reg : e.borrow_reg)
      if (reg > 15) return nullptr;
  }
  for (unsigned i = 0; i < b.site_count; i++) {
    const LinkSite& s = b.sites()[i];
    if (reinterpret_cast<const uint8_t*>(&s)[offsetof(LinkSite, ungrouped)] > 1 || s.target >= 4096) return nullptr;
    if (s.at % 4 || s.at + 4ull > b.code_size || s.unlinked + uint64_t{kLinkStubSize} > b.code_size || static_cast<uint8_t>(s.flags) > static_cast<uint8_t>(FlagsIn::kBoth)) return nullptr;
  }
  if (b.code_size < 8) return nullptr;  // turn_away() writes as many
  return &b;
}

}  // namespace vireo::softkvm
