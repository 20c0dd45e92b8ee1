// SPDX-License-Identifier: Apache-2.0
// From guest offsets to L2 entries and host offsets. Spec: "Cluster mapping".
#include <algorithm>

#include "base/log.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {

std::unexpected<Error> Qcow2::corrupt(const std::string& what) {
  if (!corrupt_) {
    log(LogLevel::kError, "qcow2: Marking image as corrupt: %s; further corruption events will be suppressed", what.c_str());
    corrupt_ = true;
    if (!file_->read_only() && v3()) {
      header_.incompatible |= incompatible::kCorrupt;
      std::byte bits[8];
      store(bits, header_.incompatible);
      if (auto result = put_header_field(at::kIncompatible, bits); !result) log(LogLevel::kError, "qcow2: %s", result.error().message.c_str());
      if (auto result = file_->flush(); !result) log(LogLevel::kError, "qcow2: %s", result.error().message.c_str());
    }
  }
  return fail(ErrorKind::kCorrupt, "'" + file_->name() + "': " + what, EIO);
}

Result<Table*> Qcow2::l2_table(uint64_t guest, bool only_cached) {
  uint64_t index = geometry_.l1_index(guest);
  if (index >= l1_.size()) return nullptr;
  uint64_t offset = l1_[index] & kOffsetMask;
  if (offset == 0) return nullptr;
  if (geometry_.in_cluster(offset)) return corrupt("L2 table offset " + std::to_string(offset) + " unaligned (L1 index " + std::to_string(index) + ")");
  if (only_cached) return l2_->find(offset);
  return l2_->load(offset);
}

// A table that only the active image uses: made, or copied from one that a snapshot shares.
Result<Table*> Qcow2::writable_l2(uint64_t guest) {
  uint64_t index = geometry_.l1_index(guest), entry = l1_[index], old = entry & kOffsetMask;
  if (old && geometry_.in_cluster(old)) return corrupt("L2 table offset " + std::to_string(old) + " unaligned");
  if (old && entry & kCopied) return l2_->load(old);
  TRY_VOID(before_allocation());
  Table* source = old ? TRY(l2_->load(old)) : nullptr;
  uint64_t offset = TRY(refcounts_->allocate_cluster());
  if (offset == 0) return corrupt("Preventing invalid allocation of L2 table at offset 0");
  TRY_VOID(check_overlap(offset, cluster_size(), "L2 table"));
  high_water_ = std::max(high_water_, offset + cluster_size());
  Table* table = l2_->fresh(offset);
  if (source) memcpy(table->bytes.get(), source->bytes.get(), cluster_size());
  l1_[index] = offset | kCopied;
  l1_dirty_from_ = l1_dirty_to_ ? std::min(l1_dirty_from_, index) : index;
  l1_dirty_to_ = std::max(l1_dirty_to_, index + 1);
  own(offset, cluster_size(), Owner::kActiveL2);
  if (old) {
    owners_.remove(old >> geometry_.cluster_bits);
    free_later(old, cluster_size(), false);
  }
  return table;
}

Entry Qcow2::entry_at(const Table& table, uint64_t guest) const {
  const std::byte* p = table.bytes.get() + geometry_.l2_index(guest) * geometry_.l2_entry_size();
  return {load<uint64_t>(p), geometry_.extended_l2 ? load<uint64_t>(p + 8) : 0};
}

void Qcow2::set_entry(Table& table, uint64_t guest, Entry entry) {
  uint64_t at = geometry_.l2_index(guest) * geometry_.l2_entry_size();
  store(table.bytes.get() + at, entry.word);
  if (geometry_.extended_l2) store(table.bytes.get() + at + 8, entry.bitmap);
  l2_->dirty(table, at, geometry_.l2_entry_size());
}

Kind Qcow2::kind(const Entry& entry, unsigned subcluster) const {
  if (entry.word & kCompressed) return Kind::kCompressed;
  bool present = entry.word & kOffsetMask || (data_file_ && entry.word & kCopied);
  if (geometry_.extended_l2) {
    bool allocated = entry.bitmap >> subcluster & 1, zero = entry.bitmap >> (32 + subcluster) & 1;
    if (allocated && (zero || !present)) return Kind::kInvalid;
    if (zero) return present ? Kind::kZeroAllocated : Kind::kZero;
    if (!present) return Kind::kUnallocated;
    return allocated ? Kind::kNormal : Kind::kUnallocatedInCluster;
  }
  if (v3() && entry.word & kZeroFlag) return present ? Kind::kZeroAllocated : Kind::kZero;
  return present ? Kind::kNormal : Kind::kUnallocated;
}

Result<Qcow2::Mapping> Qcow2::map(uint64_t guest, uint64_t length, bool only_cached) {
  Mapping m;
  length = std::min(length, geometry_.l2_span() - (guest & (geometry_.l2_span() - 1)));
  Table* table = TRY(l2_table(guest, only_cached));
  if (!table) {
    uint64_t index = geometry_.l1_index(guest);
    m.known = index >= l1_.size() || (l1_[index] & kOffsetMask) == 0;
    m.length = length;
    return m;
  }
  uint64_t at = guest, end = guest + length;
  for (bool first = true; at < end; first = false) {
    Entry entry = entry_at(*table, at);
    auto subcluster = static_cast<unsigned>(geometry_.in_cluster(at) / geometry_.subcluster_size());
    Kind k = kind(entry, subcluster);
    bool in_file = k == Kind::kNormal || k == Kind::kZeroAllocated || k == Kind::kUnallocatedInCluster;
    uint64_t host = in_file ? (entry.word & kOffsetMask) + geometry_.in_cluster(at) : 0;
    if (in_file && geometry_.in_cluster(entry.word & kOffsetMask))
      return corrupt("Cluster allocation offset " + std::to_string(entry.word & kOffsetMask) + " unaligned (guest offset " + std::to_string(at) + ")");
    if (k == Kind::kInvalid) return corrupt("Invalid cluster entry found (guest offset " + std::to_string(at) + ")");
    if (first) {
      m.kind = k;
      m.entry = entry;
      m.host = host;
      m.copied = entry.word & kCopied;
    } else if (k != m.kind || k == Kind::kCompressed || (in_file && host != m.host + (at - guest)) || m.copied != !!(entry.word & kCopied)) {
      break;
    }
    at = std::min(end, at - at % geometry_.subcluster_size() + geometry_.subcluster_size());
    // A compressed cluster counts as a whole, whatever its bitmap says.
    if (k == Kind::kCompressed) at = std::min(end, geometry_.cluster_start(guest) + cluster_size());
  }
  m.length = at - guest;
  return m;
}

Hold Qcow2::hold() {
  uint64_t epoch = epoch_;
  ++holds_[epoch];
  return Hold([this, epoch] {
    std::lock_guard lock(mutex_);
    auto found = holds_.find(epoch);
    if (--found->second == 0) holds_.erase(found);
    if (holds_.empty()) idle_.notify_all();
  });
}

bool Qcow2::locate(uint64_t offset, uint64_t length, bool for_write, std::vector<Segment>& out, Hold& kept) {
  if (header_.crypt != Crypt::kNone || length > header_.size || offset > header_.size - length) return false;
  size_t before = out.size();
  std::lock_guard lock(mutex_);
  if (corrupt_ || (for_write && file_->read_only())) return false;
  if (for_write && !bitmaps_.bitmaps.empty() && (!bitmaps_taken_ || !track(offset, length))) return false;
  uint64_t end = offset + length;
  for (uint64_t at = offset; at < end;) {
    auto m = map(at, end - at, true);
    bool good = m && m->known;
    if (good && for_write) {
      good = m->kind == Kind::kNormal && (m->copied || data_file_);
      if (good && !data_file_)
        for (uint64_t c = m->host >> geometry_.cluster_bits; good && c <= (m->host + m->length - 1) >> geometry_.cluster_bits; ++c)
          good = owners_.get(c) == Owner::kNone;
    } else if (good) {
      if (m->kind == Kind::kNormal) {
      } else if (m->kind == Kind::kZero || m->kind == Kind::kZeroAllocated) {
        out.push_back({nullptr, 0, m->length});
        at += m->length;
        continue;
      } else if (m->kind == Kind::kUnallocated || m->kind == Kind::kUnallocatedInCluster) {
        uint64_t have = !backing_ || at >= backing_->size() ? 0 : std::min(m->length, backing_->size() - at);
        Hold below;
        if (have && !backing_->locate(at, have, false, out, below)) good = false;
        if (good && have < m->length) out.push_back({nullptr, 0, m->length - have});
        at += m->length;
        if (good) continue;
      } else {
        good = false;
      }
    }
    if (!good) {
      out.resize(before);
      return false;
    }
    out.push_back({&data_file(), m->host, m->length});
    at += m->length;
  }
  kept = hold();
  return true;
}

}  // namespace vireo::storage::qcow2
