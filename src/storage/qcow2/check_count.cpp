// SPDX-License-Identifier: Apache-2.0
// Everything that refers to a cluster: header, tables, data, snapshots, bitmaps, refcount blocks.
#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "storage/qcow2/checker.h"
#include "storage/qcow2/snapshot_table.h"

namespace vireo::storage::qcow2 {
namespace {

template <class... A>
std::string text(const char* format, A... a) {
  char line[256];
  snprintf(line, sizeof line, format, a...);
  return line;
}

}  // namespace

void Checker::reference(uint64_t offset, uint64_t length) {
  if (length == 0) return;
  // The last cluster may be there in part; what lies less than one behind the end is told by its count.
  if (offset > UINT64_MAX - length || (offset + length > file_size_ && offset + length - file_size_ >= g_.cluster_size())) {
    corruption(text("ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset 0x%" PRIx64 " size 0x%" PRIx64, offset, length));
    return;
  }
  for (uint64_t c = offset >> g_.cluster_bits; c <= (offset + length - 1) >> g_.cluster_bits; ++c) {
    if (references_.get(c) == g_.refcount_max()) {
      corruption(text("ERROR: overflow cluster offset=0x%" PRIx64, c << g_.cluster_bits));
      say_("Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if the image cannot be opened for writing");
      continue;
    }
    references_.add(c);
  }
}

Result<> Checker::count_l2(uint64_t offset, bool active, uint64_t& next) {
  std::vector<std::byte> table(g_.cluster_size());
  if (auto read = file_.read(offset, table); !read) {
    say_("ERROR: I/O error in check_refcounts_l2");
    ++result_.errors;
    return {};
  }
  for (uint64_t i = 0; i < g_.l2_entries(); ++i) {
    const std::byte* p = &table[i * g_.l2_entry_size()];
    auto word = load<uint64_t>(p);
    uint64_t bitmap = g_.extended_l2 ? load<uint64_t>(p + 8) : 0;
    if (!(word & kCompressed) && word & kL2Reserved) corruption(text("ERROR found l2 entry with reserved bits set: %" PRIx64, word));
    if (word & kCompressed) {
      if (word & kCopied) corruption(text("ERROR: coffset=0x%" PRIx64 ": copied flag must never be set for compressed clusters", g_.compressed_offset(word & ~(kCopied | kCompressed))));
      if (header_.has_data_file()) {
        corruption(text("ERROR compressed cluster %" PRIu64 " with data file, entry=0x%" PRIx64, i, word));
        continue;
      }
      if (bitmap) {
        corruption(text("ERROR compressed cluster %" PRIu64 " with non-zero subcluster allocation bitmap, entry=0x%" PRIx64, i, word));
        continue;
      }
      uint64_t w = word & ~(kCopied | kCompressed);
      reference(g_.compressed_offset(w), g_.compressed_size(w));
      if (active) ++result_.allocated_clusters, ++result_.compressed_clusters, ++result_.fragmented_clusters;
      continue;
    }
    uint64_t host = word & kOffsetMask;
    bool zero_flag = header_.version >= 3 && !g_.extended_l2 && word & kZeroFlag;
    bool present = host || (header_.has_data_file() && word & kCopied);
    if (g_.extended_l2) {
      uint64_t allocated = bitmap & 0xffffffff, zero = bitmap >> 32;
      if (allocated & zero) {
        corruption(text("ERROR offset=%" PRIx64 ": Allocated cluster has corrupted subcluster allocation bitmap", host));
        continue;
      }
      if (!present && allocated) {
        corruption("ERROR: Unallocated cluster has non-zero subcluster allocation map");
        continue;
      }
    }
    if (!present) continue;
    if (g_.in_cluster(host)) {
      bool contains_data = g_.extended_l2 ? bitmap & 0xffffffff : !zero_flag;
      if (!contains_data) {
        bool fix = counting_ == Repair::kAll;
        say_(text("%s offset=%" PRIx64 ": Preallocated cluster is not properly aligned; L2 entry corrupted.", fix ? "Repairing" : "ERROR", host));
        if (fix) {
          std::byte now[8];
          store<uint64_t>(now, g_.extended_l2 ? 0 : kZeroFlag);
          if (file_.write(offset + i * g_.l2_entry_size(), now)) {
            ++result_.corruptions_fixed;
            continue;
          }
          ++result_.errors;
        }
        ++result_.corruptions;
      } else {
        corruption(text("ERROR offset=%" PRIx64 ": Data cluster is not properly aligned; L2 entry corrupted.", host));
      }
    }
    if (active) {
      ++result_.allocated_clusters;
      if (next && host != next) ++result_.fragmented_clusters;
      next = host + g_.cluster_size();
    }
    if (!header_.has_data_file()) reference(host, g_.cluster_size());
  }
  return {};
}

Result<> Checker::count_l1(uint64_t offset, uint64_t entries, bool active) {
  if (entries == 0) return {};
  reference(offset, entries * 8);
  if (!in_file(offset, entries * 8)) return {};
  std::vector<std::byte> raw(entries * 8);
  TRY_VOID(file_.read(offset, raw));
  uint64_t next = 0;
  for (uint64_t i = 0; i < entries; ++i) {
    const auto entry = load<uint64_t>(&raw[i * 8]);
    if (entry & kL1Reserved) corruption(text("ERROR found L1 entry with reserved bits set: %" PRIx64, entry));
    uint64_t l2 = entry & kOffsetMask;
    if (l2 == 0) continue;
    reference(l2, g_.cluster_size());
    if (g_.in_cluster(l2)) {
      corruption(text("ERROR l2_offset=%" PRIx64 ": Table is not cluster aligned; L1 entry corrupted", l2));
      continue;
    }
    if (!in_file(l2, g_.cluster_size())) continue;
    TRY_VOID(count_l2(l2, active, next));
  }
  return {};
}

// Spec: "Bitmaps". The directory and each bitmap's table and data.
Result<> Checker::count_bitmaps() {
  const Extension* e = header_.find(extension::kBitmaps);
  if (!e || !(header_.autoclear & autoclear::kBitmaps)) return {};
  if (e->data.size() != 24) {
    corruption("ERROR: the bitmaps extension has a wrong length");
    return {};
  }
  auto count = load<uint32_t>(&e->data[0]);
  auto size = load<uint64_t>(&e->data[8]), offset = load<uint64_t>(&e->data[16]);
  if (count == 0 || count > kMaxBitmaps || size > kMaxSnapshotTable || g_.in_cluster(offset) || !in_file(offset, size)) {
    corruption("ERROR: the bitmap directory is invalid");
    return {};
  }
  reference(offset, size);
  std::vector<std::byte> directory(size);
  TRY_VOID(file_.read(offset, directory));
  uint64_t at = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (size - at < 24) {
      corruption("ERROR: the bitmap directory is too short");
      return {};
    }
    const std::byte* p = &directory[at];
    auto table = load<uint64_t>(p);
    uint64_t entries = load<uint32_t>(p + 8), name = load<uint16_t>(p + 18), extra = load<uint32_t>(p + 20);
    uint64_t length = round_up(24 + name + extra, 8);
    if (length > size - at) {
      corruption("ERROR: the bitmap directory is too short");
      return {};
    }
    at += length;
    if (g_.in_cluster(table) || entries > kMaxL1Bytes / 8 || !in_file(table, entries * 8)) {
      corruption("ERROR: a bitmap's table is invalid");
      continue;
    }
    reference(table, entries * 8);
    std::vector<std::byte> raw(entries * 8);
    TRY_VOID(file_.read(table, raw));
    for (uint64_t k = 0; k < entries; ++k) {
      auto word = load<uint64_t>(&raw[k * 8]);
      if (uint64_t data = word & kOffsetMask) reference(data, g_.cluster_size());
    }
  }
  return {};
}

Result<> Checker::count_refcount_data() {
  reference(header_.reftable_offset, static_cast<uint64_t>(header_.reftable_clusters) << g_.cluster_bits);
  std::vector<std::byte> raw(static_cast<uint64_t>(header_.reftable_clusters) << g_.cluster_bits);
  TRY_VOID(file_.read(header_.reftable_offset, raw));
  reftable_.resize(raw.size() / 8);
  for (uint64_t i = 0; i < reftable_.size(); ++i) {
    auto entry = load<uint64_t>(&raw[i * 8]);
    uint64_t offset = entry & kReftableMask;
    if (entry & kReftableReserved) {
      corruption(text("ERROR refcount table entry %" PRIu64 " has reserved bits set", i));
      needs_rebuild_ = true;
      continue;
    }
    if (offset == 0) continue;
    if (g_.in_cluster(offset)) {
      corruption(text("ERROR refcount block %" PRIu64 " is not cluster aligned; refcount table entry corrupted", i));
      needs_rebuild_ = true;
      continue;
    }
    if (!in_file(offset, g_.cluster_size())) {
      corruption(text("ERROR refcount block %" PRIu64 " is outside image", i));
      needs_rebuild_ = true;
      continue;
    }
    references_.add(offset >> g_.cluster_bits);
    if (uint64_t n = references_.get(offset >> g_.cluster_bits); n != 1) {
      corruption(text("ERROR refcount block %" PRIu64 " refcount=%" PRIu64, i, n));
      needs_rebuild_ = true;
      continue;
    }
    reftable_[i] = offset;
  }
  return {};
}

Result<> Checker::count_all(Repair fix) {
  counting_ = fix;
  references_.add(0);
  TRY_VOID(count_l1(header_.l1_offset, header_.l1_size, true));
  if (header_.has_data_file() && header_.snapshot_count)
    corruption("ERROR " + std::to_string(header_.snapshot_count) + " snapshots in image with data file");
  for (const Snapshot& s : snapshots_.snapshots) {
    if (g_.in_cluster(s.l1_offset)) {
      corruption(text("ERROR snapshot %s (%s) l1_offset=%#" PRIx64 ": L1 table is not cluster aligned; snapshot table entry corrupted", s.id.c_str(), s.name.c_str(), s.l1_offset));
      continue;
    }
    if (s.l1_size > kMaxL1Bytes / 8) {
      corruption(text("ERROR snapshot %s (%s) l1_size=%#" PRIx32 ": L1 table is too large; snapshot table entry corrupted", s.id.c_str(), s.name.c_str(), s.l1_size));
      continue;
    }
    TRY_VOID(count_l1(s.l1_offset, s.l1_size, false));
  }
  reference(header_.snapshots_offset, snapshots_.bytes);
  if (const Extension* e = header_.find(extension::kCrypto); e && e->data.size() == 16)
    reference(load<uint64_t>(&e->data[0]), load<uint64_t>(&e->data[8]));
  TRY_VOID(count_bitmaps());
  return count_refcount_data();
}

}  // namespace vireo::storage::qcow2
