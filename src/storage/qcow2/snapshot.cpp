// SPDX-License-Identifier: Apache-2.0
// Internal snapshots: a snapshot is a second L1 table over the same clusters, and each cluster counts its users.
// Callers keep guests' writes out meanwhile. The dirty bit is set while counts and COPIED bits change, since no order of
// writes keeps both in step on the disk; whoever opens the image after a crash recounts first. (A v2 image has no such bit;
// there a crash can leave COPIED bits that a repair must put right, never lost data.)
#include <algorithm>

#include "base/log.h"
#include "storage/qcow2/qcow2.h"
#include "storage/qcow2/snapshot_table.h"

namespace vireo::storage::qcow2 {

// Nothing under way, everything on the disk.
Result<> Qcow2::quiesce() {
  {
    std::unique_lock lock(mutex_);
    if (corrupt_) return fail(ErrorKind::kCorrupt, "'" + file_->name() + "' is marked as corrupt", EIO);
    if (file_->read_only()) return fail(ErrorKind::kInvalid, "'" + file_->name() + "' is read-only", EROFS);
    if (closed_) return fail(ErrorKind::kInternal, "'" + file_->name() + "' was closed already", EBADF);
    idle_.wait(lock, [&] { return busy_.empty() && holds_.empty(); });
    compressed_next_ = 0;
  }
  return commit(true);
}

Result<uint64_t> Qcow2::allocate_area(uint64_t bytes) {
  if (bytes == 0) return 0;
  std::lock_guard lock(mutex_);
  TRY_VOID(before_allocation());
  uint64_t clusters = std::max<uint64_t>(1, divide_up(bytes, cluster_size()));
  uint64_t offset = (TRY(refcounts_->allocate(clusters, clusters))).cluster << geometry_.cluster_bits;
  TRY_VOID(check_overlap(offset, clusters << geometry_.cluster_bits, "metadata"));
  high_water_ = std::max(high_water_, offset + (clusters << geometry_.cluster_bits));
  return offset;
}

void Qcow2::free_area(uint64_t offset, uint64_t bytes) {
  if (bytes == 0 || offset == 0) return;
  file_->event("cluster_free");
  std::lock_guard lock(mutex_);
  own(offset, bytes, Owner::kNone);
  free_later(offset, bytes, false);
}

Result<> Qcow2::write_l1_table(uint64_t offset, const std::vector<uint64_t>& l1) {
  if (l1.empty()) return {};  // a disk of no size has no table
  std::vector<std::byte> raw(round_up(l1.size() * 8, cluster_size()));
  for (size_t i = 0; i < l1.size(); ++i) store(&raw[i * 8], l1[i]);
  return file_->write(offset, raw);
}

// One more or one less user for all that a table reaches. Clusters in a row are counted together.
Result<> Qcow2::count_tree(const std::vector<uint64_t>& l1, int by) {
  std::lock_guard lock(mutex_);
  uint64_t row = 0, count = 0;
  std::vector<std::pair<uint64_t, uint64_t>> changed;  // to take back
  auto add = [&](uint64_t cluster, uint64_t n) -> Result<> {
    uint64_t done = 0;
    auto result = refcounts_->change_row(cluster, n, by, done);
    if (by > 0) changed.emplace_back(cluster, done);
    return result;
  };
  auto put = [&](uint64_t cluster) -> Result<> {
    if (count && cluster == row + count) {
      ++count;
      return {};
    }
    if (count) TRY_VOID(add(row, count));
    row = cluster, count = 1;
    return {};
  };
  // To count what lies far outside the refcount table would have to grow for nothing.
  const uint64_t end = std::max(high_water_, file_->size()) >> geometry_.cluster_bits;
  auto in_file = [&](uint64_t cluster) -> Result<> {
    if (by < 0 || cluster <= end) return {};
    if (cluster / geometry_.refblock_entries() * 8 > kMaxReftableBytes) return fail(ErrorKind::kBusy, "a cluster lies outside of any file", EFBIG);
    return fail(ErrorKind::kBusy, "a cluster lies behind the end of the file: the image must be checked first", EAGAIN);
  };
  auto work = [&]() -> Result<> {
    for (uint64_t entry : l1) {
      uint64_t l2 = entry & kOffsetMask;
      if (l2 == 0) continue;
      if (geometry_.in_cluster(l2)) return corrupt("L2 table offset " + std::to_string(l2) + " unaligned");
      Table* table = TRY(l2_->load(l2));
      for (uint64_t i = 0; i < geometry_.l2_entries(); ++i) {
        uint64_t word = load<uint64_t>(table->bytes.get() + i * geometry_.l2_entry_size());
        if (word & kCompressed) {
          uint64_t w = word & ~(kCompressed | kCopied), from = geometry_.compressed_offset(w);
          uint64_t last = (from + geometry_.compressed_size(w) - 1) >> geometry_.cluster_bits;
          TRY_VOID(in_file(last));
          for (uint64_t c = from >> geometry_.cluster_bits; c <= last; ++c) TRY_VOID(put(c));
        } else if (uint64_t host = word & kOffsetMask) {
          if (geometry_.in_cluster(host)) return corrupt("Cluster allocation offset " + std::to_string(host) + " unaligned");
          TRY_VOID(in_file(host >> geometry_.cluster_bits));
          TRY_VOID(put(host >> geometry_.cluster_bits));
        }
      }
      TRY_VOID(put(l2 >> geometry_.cluster_bits));
      l2_->trim();
    }
    if (count) TRY_VOID(add(row, count));
    return {};
  };
  auto result = work();
  if (!result) {
    uint64_t done;
    for (auto& [cluster, n] : changed) (void)refcounts_->change_row(cluster, n, -1, done);
  }
  return result;
}

// COPIED in the active tables: off everywhere (all clusters have just got a second user), or as refcounts say.
Result<> Qcow2::set_copied(bool from_refcounts) {
  std::lock_guard lock(mutex_);
  auto single = [&](uint64_t offset) -> Result<bool> {
    if (!from_refcounts) return false;
    return TRY(refcounts_->get(offset >> geometry_.cluster_bits)) == 1;
  };
  for (size_t i = 0; i < l1_.size(); ++i) {
    uint64_t l2 = l1_[i] & kOffsetMask;
    if (l2 == 0) continue;
    bool own_table = TRY(single(l2));
    uint64_t entry = l2 | (own_table ? kCopied : 0);
    if (entry != l1_[i]) {
      l1_[i] = entry;
      l1_dirty_from_ = l1_dirty_to_ ? std::min<uint64_t>(l1_dirty_from_, i) : i;
      l1_dirty_to_ = std::max<uint64_t>(l1_dirty_to_, i + 1);
    }
    Table* table = TRY(l2_->load(l2));
    for (uint64_t k = 0; k < geometry_.l2_entries(); ++k) {
      std::byte* p = table->bytes.get() + k * geometry_.l2_entry_size();
      auto word = load<uint64_t>(p);
      if (word & kCompressed || !(word & kOffsetMask)) continue;
      bool own_cluster = TRY(single(word & kOffsetMask));
      uint64_t now = own_cluster ? word | kCopied : word & ~kCopied;
      if (now == word) continue;
      store(p, now);
      l2_->dirty(*table, k * geometry_.l2_entry_size(), 8);
    }
  }
  return {};
}

// The list goes to new clusters; one write to the header makes it valid.
Result<> Qcow2::write_snapshot_table(const std::vector<Snapshot>& list) {
  auto bytes = serialize_snapshots(list);
  uint64_t offset = 0, old = header_.snapshots_offset, old_size = snapshot_table_size_;
  if (!list.empty()) {
    if (bytes.size() > kMaxSnapshotTable) return fail(ErrorKind::kInvalid, "too many snapshots", EFBIG);
    offset = TRY(allocate_area(bytes.size()));
    std::vector<std::byte> padded(round_up(bytes.size(), 512));
    std::ranges::copy(bytes, padded.begin());
    TRY_VOID(file_->write(offset, padded));
  }
  if (obeys(Rule::kSnapshotTableBeforeHeader)) TRY_VOID(commit(true));  // the list's and the snapshot's refcounts as well
  std::byte fields[12];
  store(fields, static_cast<uint32_t>(list.size()));
  store(fields + 4, offset);
  TRY_VOID(put_header_field(at::kSnapshotCount, fields));
  TRY_VOID(file_->flush());
  if (!obeys(Rule::kSnapshotTableBeforeHeader)) TRY_VOID(commit(true));
  header_.snapshot_count = static_cast<uint32_t>(list.size());
  header_.snapshots_offset = offset;
  snapshot_table_size_ = list.empty() ? 0 : bytes.size();
  if (old_size) free_area(old, old_size);
  if (!list.empty()) {
    std::lock_guard lock(mutex_);
    own(offset, bytes.size(), Owner::kSnapshotTable);
  }
  snapshots_ = list;
  return {};
}

Result<> Qcow2::renew_snapshot_table() {
  return snapshot_work([&] { return write_snapshot_table(snapshots_); });
}

Result<> Qcow2::snapshot_work(const std::function<Result<>()>& work) {
  TRY_VOID(quiesce());
  const bool mark = v3() && !dirty_marked_;
  if (mark) {
    std::lock_guard lock(mutex_);
    TRY_VOID(set_dirty_bit(true));
  }
  Result<> worked = work();
  // A failure half way leaves the bit, and with it the recount, to the next one who opens the image; one that has been taken
  // back whole does not.
  if (!worked && worked.error().kind != ErrorKind::kBusy) return worked;
  TRY_VOID(commit(true));
  TRY_VOID(commit(true));  // what the first one freed
  if (!mark) return worked;
  std::lock_guard lock(mutex_);
  if (dirty_marked_) return worked;
  TRY_VOID(set_dirty_bit(false));
  return worked;
}

Result<std::vector<uint64_t>> Qcow2::read_snapshot_l1(const Snapshot& s) {
  if (s.l1_size > kMaxL1Bytes / 8) return fail(ErrorKind::kCorrupt, "Snapshot L1 table too large", EFBIG);
  if (geometry_.in_cluster(s.l1_offset) || s.l1_offset > INT64_MAX - kMaxL1Bytes) return fail(ErrorKind::kCorrupt, "Snapshot L1 table offset invalid", EINVAL);
  return read_l1(s.l1_offset, s.l1_size);
}

int Qcow2::find_snapshot(const std::string& id_or_name) const {
  for (size_t i = 0; i < snapshots_.size(); ++i)
    if (snapshots_[i].id == id_or_name) return static_cast<int>(i);
  for (size_t i = 0; i < snapshots_.size(); ++i)
    if (snapshots_[i].name == id_or_name) return static_cast<int>(i);
  return -1;
}

Result<> Qcow2::create_snapshot(const std::string& name, uint32_t date_sec, uint32_t date_nsec) {
  if (data_file_) return fail(ErrorKind::kUnsupported, "images with an external data file have no internal snapshots", ENOTSUP);
  if (snapshots_.size() >= kMaxSnapshots) return fail(ErrorKind::kInvalid, "too many snapshots", EFBIG);
  if (name.size() > 65535) return fail(ErrorKind::kInvalid, "the snapshot's name is too long", EINVAL);
  Snapshot s;
  uint64_t id = 1;
  for (const Snapshot& other : snapshots_) {
    char* end;
    unsigned long number = strtoul(other.id.c_str(), &end, 10);
    if (*end == 0 && number >= id) id = number + 1;
  }
  s.id = std::to_string(id);
  s.name = name;
  s.date_sec = date_sec;
  s.date_nsec = date_nsec;
  s.disk_size = header_.size;
  s.l1_size = static_cast<uint32_t>(l1_.size());
  return snapshot_work([&]() -> Result<> {
    s.l1_offset = TRY(allocate_area(l1_.size() * 8));
    TRY_VOID(write_l1_table(s.l1_offset, l1_));
    if (auto result = count_tree(l1_, 1); !result) {
      free_area(s.l1_offset, l1_.size() * 8);
      result.error().kind = ErrorKind::kBusy;  // taken back
      return result;
    }
    if (obeys(Rule::kCopiedClearedBySnapshot)) TRY_VOID(set_copied(false));
    auto list = snapshots_;
    list.push_back(s);
    TRY_VOID(write_snapshot_table(list));
    std::lock_guard lock(mutex_);
    if (s.l1_size) own(s.l1_offset, s.l1_size * 8ull, Owner::kInactiveL1);
    return {};
  });
}

Result<> Qcow2::delete_snapshot(size_t index) {
  const Snapshot s = snapshots_.at(index);
  auto l1 = TRY(read_snapshot_l1(s));
  return snapshot_work([&]() -> Result<> {
    auto list = snapshots_;
    list.erase(list.begin() + static_cast<ptrdiff_t>(index));
    TRY_VOID(write_snapshot_table(list));
    // From here on the snapshot is gone, whatever fails; what it had may be lost to others until a check.
    auto freed = commit(true);
    if (!freed) log(LogLevel::kError, "qcow2_free_clusters failed: %s", strerror(freed.error().code ? freed.error().code : EIO));
    if (auto counted = freed ? count_tree(l1, -1) : freed; !counted) 
      return fail_errno("Failed to free the cluster and L1 table", counted.error().code ? counted.error().code : EIO);
    free_area(s.l1_offset, s.l1_size * 8ull);
    TRY_VOID(set_copied(true));
    std::lock_guard lock(mutex_);
    decompressed_->clear();
    return {};
  });
}

// A new L1 table and, with it, a new size of the disk, by one write to the header.
Result<> Qcow2::set_l1(std::vector<uint64_t> l1, uint64_t size) {
  uint64_t old = header_.l1_offset, old_bytes = l1_.size() * 8;
  uint64_t offset = TRY(allocate_area(l1.size() * 8));
  TRY_VOID(write_l1_table(offset, l1));
  if (obeys(Rule::kL1BeforeHeader)) TRY_VOID(commit(true));
  std::byte fields[24];
  store(fields, size);
  store(fields + 8, static_cast<uint32_t>(header_.crypt));
  store(fields + 12, static_cast<uint32_t>(l1.size()));
  store(fields + 16, offset);
  TRY_VOID(put_header_field(at::kSize, fields));
  TRY_VOID(file_->flush());
  if (!obeys(Rule::kL1BeforeHeader)) TRY_VOID(commit(true));
  {
    std::lock_guard lock(mutex_);
    for (uint64_t entry : l1_)
      if (entry & kOffsetMask) owners_.remove((entry & kOffsetMask) >> geometry_.cluster_bits);
    header_.l1_offset = offset;
    header_.l1_size = static_cast<uint32_t>(l1.size());
    header_.size = size;
    l1_ = std::move(l1);
    l1_dirty_from_ = l1_dirty_to_ = 0;
    for (uint64_t entry : l1_)
      if (entry & kOffsetMask) own(entry & kOffsetMask, 1, Owner::kActiveL2);
    if (!l1_.empty()) own(offset, l1_.size() * 8, Owner::kActiveL1);
  }
  free_area(old, old_bytes);
  return {};
}

Result<> Qcow2::apply_snapshot(size_t index) {
  const Snapshot s = snapshots_.at(index);
  if (s.disk_size > INT64_MAX || geometry_.l1_entries(s.disk_size) > kMaxL1Bytes / 8)
    return fail(ErrorKind::kCorrupt, "the snapshot's disk is too large", EFBIG);
  auto l1 = TRY(read_snapshot_l1(s));
  for (uint64_t& entry : l1) entry &= kOffsetMask;
  l1.resize(std::max<uint64_t>({l1.size(), l1_.size(), geometry_.l1_entries(s.disk_size)}));
  return snapshot_work([&]() -> Result<> {
    {
      std::lock_guard lock(mutex_);
      TRY_VOID(take_bitmaps(true));
    }
    auto old = l1_;
    if (auto counted = count_tree(l1, 1); !counted) {
      counted.error().kind = ErrorKind::kBusy;  // taken back
      return counted;
    }
    TRY_VOID(set_l1(l1, s.disk_size));
    TRY_VOID(count_tree(old, -1));
    TRY_VOID(set_copied(true));
    TRY_VOID(resize_bitmaps(s.disk_size, true));
    std::lock_guard lock(mutex_);
    decompressed_->clear();
    return {};
  });
}

Result<> Qcow2::show_snapshot(size_t index) {
  const Snapshot& s = snapshots_.at(index);
  if (!file_->read_only()) return fail(ErrorKind::kInternal, "a snapshot is shown by read-only images");
  auto l1 = TRY(read_snapshot_l1(s));
  if (s.disk_size > INT64_MAX) return fail(ErrorKind::kCorrupt, "the snapshot's disk is too large", EFBIG);
  std::lock_guard lock(mutex_);
  l1_ = std::move(l1);
  header_.size = s.disk_size;
  return {};
}

}  // namespace vireo::storage::qcow2
