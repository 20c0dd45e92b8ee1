// SPDX-License-Identifier: Apache-2.0
// Growing, shrinking, and space taken in advance.
#include <algorithm>

#include "storage/image/raw_image.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {

// Entries of [from, to) become those of clusters that never were written.
Result<> Qcow2::drop_entries(uint64_t from, uint64_t to) {
  for (uint64_t at = from; at < to; at = at - at % geometry_.l2_span() + geometry_.l2_span()) {
    uint64_t end = std::min(to, at - at % geometry_.l2_span() + geometry_.l2_span());
    std::unique_lock lock(mutex_);
    Table* table = TRY(l2_table(at));
    if (!table) continue;
    table = TRY(writable_l2(at));
    for (uint64_t c = at; c < end; c += cluster_size()) {
      Entry old = entry_at(*table, c);
      if (old.word == 0 && old.bitmap == 0) continue;
      set_entry(*table, c, {});
      release_entry(old, true);
    }
    lock.unlock();
    TRY_VOID(commit_if_full());
  }
  return commit(true);
}

// Header, refcount table, one block, L1 table, as in a new image. The dirty bit says meanwhile that no refcount is to be trusted,
// and that what the tables name need not be there.
Result<> Qcow2::make_empty() {
  const uint64_t size = cluster_size(), l1_clusters = divide_up(l1_.size() * 8, size);
  TRY_VOID(quiesce());
  TRY_VOID(commit(true));
  std::lock_guard one(commit_mutex_);
  std::lock_guard lock(mutex_);
  TRY_VOID(set_dirty_bit(true));
  dirty_marked_ = true;
  // Whatever is in memory describes what is given up here: on a failure nothing of it may reach the file.
  closed_ = true;
  file_->event("l1_update");
  TRY_VOID(file_->zero(header_.l1_offset, l1_clusters * size, false));
  TRY_VOID(file_->flush());
  file_->event("empty_image_prepare");
  TRY_VOID(file_->zero(size, (2 + l1_clusters) * size, false));
  TRY_VOID(file_->flush());
  file_->event("l1_update");
  file_->event("reftable_update");
  std::byte fields[20];
  store(fields, 3 * size);
  store(fields + 8, size);
  store<uint32_t>(fields + 16, 1);
  TRY_VOID(put_header_field(at::kL1, fields));
  TRY_VOID(file_->flush());
  file_->event("refblock_alloc");
  std::vector<std::byte> block(size);
  for (uint64_t i = 0; i < 3 + l1_clusters; ++i) set_refcount(block.data(), geometry_.refcount_order, i, 1);
  TRY_VOID(file_->write(2 * size, block));
  std::byte entry[8];
  store(entry, 2 * size);
  TRY_VOID(file_->flush());
  TRY_VOID(file_->write(size, entry));
  TRY_VOID(file_->flush());
  TRY_VOID(set_dirty_bit(false));
  return file_->truncate((3 + l1_clusters) * size);
}

Result<> Qcow2::drop_all_data() {
  TRY_VOID(quiesce());
  // Where nothing else lies in the file, it can begin anew.
  const uint64_t l1_clusters = divide_up(l1_.size() * 8, cluster_size());
  if (v3() && snapshots_.empty() && bitmaps_.bitmaps.empty() && !data_file_ && header_.crypt == Crypt::kNone && file_->grows() && l1_clusters &&
      3 + l1_clusters <= geometry_.refblock_entries())
    return make_empty();
  TRY_VOID(drop_entries(0, header_.size));
  return commit(true);
}

Result<> Qcow2::resize(uint64_t size, Preallocation preallocation) {
  if (size % 512) return fail(ErrorKind::kInvalid, "The new size must be a multiple of 512", EINVAL);
  if (size > INT64_MAX || geometry_.l1_entries(size) > kMaxL1Bytes / 8) return fail(ErrorKind::kInvalid, "Image size too large", EFBIG);
  if (header_.snapshot_count && !v3()) return fail(ErrorKind::kUnsupported, "Can't resize a v2 image which has snapshots", ENOTSUP);
  const uint64_t before = header_.size;
  if (data_file_ && header_.data_file_raw() && size > before) TRY_VOID(data_file_->truncate(size));
  TRY_VOID(quiesce());
  if (size != before) {
    std::lock_guard lock(mutex_);
    TRY_VOID(take_bitmaps(true));
  }
  // A machine's state behind the disk is not to become the disk's contents.
  if (size > before && l1_.size() > geometry_.l1_entries(before)) TRY_VOID(drop_entries(vm_state_start(), l1_.size() * geometry_.l2_span()));
  if (size < before) {
    // What lies beyond the new end goes, so that it is not there again when the disk grows.
    uint64_t from = round_up(size, cluster_size());
    if (size < from) TRY_VOID(write_zeroes(size, std::min(from, before) - size, false));
    TRY_VOID(drop_entries(from, before));
    std::vector<uint64_t> l1(l1_.begin(), l1_.begin() + static_cast<ptrdiff_t>(geometry_.l1_entries(size)));
    if (l1.size() < l1_.size()) {
      std::vector<uint64_t> cut(l1_.begin() + static_cast<ptrdiff_t>(l1.size()), l1_.end());
      TRY_VOID(set_l1(std::move(l1), size));
      for (uint64_t entry : cut)
        if (entry & kOffsetMask) free_area(entry & kOffsetMask, cluster_size());
    }
  } else if (geometry_.l1_entries(size) > l1_.size()) {
    std::vector<uint64_t> l1 = l1_;
    l1.resize(geometry_.l1_entries(size));
    TRY_VOID(set_l1(std::move(l1), size));
  }
  if (header_.size != size) {
    std::byte field[8];
    store(field, size);
    std::lock_guard lock(mutex_);
    TRY_VOID(put_header_field(at::kSize, field));
    TRY_VOID(file_->flush());
    header_.size = size;
  }
  TRY_VOID(commit(true));
  TRY_VOID(resize_bitmaps(size, false));
  if (size < before) {
    TRY_VOID(commit(true));
    if (data_file_ && header_.data_file_raw()) TRY_VOID(data_file_->truncate(size));
    // Free clusters at the file's end.
    std::lock_guard lock(mutex_);
    uint64_t clusters = divide_up(file_->size(), cluster_size());
    while (clusters > 1 && (TRY(refcounts_->get(clusters - 1))) == 0) --clusters;
    if (file_->grows() && clusters * cluster_size() < file_->size()) {
      TRY_VOID(file_->truncate(clusters * cluster_size()));
      high_water_ = clusters * cluster_size();
      if (reserved_ != UINT64_MAX) reserved_ = 0;
    }
    return {};
  }
  // What a longer backing file has there must not come up.
  if (backing_ && before < backing_->size()) TRY_VOID(write_zeroes(before, std::min(size, backing_->size()) - before, true));
  if (preallocation != Preallocation::kOff) TRY_VOID(preallocate(before, size, preallocation));
  return {};
}

Result<> Qcow2::preallocate(uint64_t from, uint64_t to, Preallocation preallocation, bool show_backing) {
  const bool with_zero_flag = v3() && backing_;
  uint64_t host_end = 0;
  for (uint64_t at = geometry_.cluster_start(from); at < to;) {
    std::unique_lock lock(mutex_);
    Mapping m = TRY(map(at, 1));
    // An entry that says "zeroes" and names no space gets some.
    auto without_space = [&](const Entry& e) { return (e.word & ~(geometry_.extended_l2 ? 0 : kZeroFlag)) == 0 && !(e.bitmap & 0xffffffff); };
    if (at < from && m.kind == Kind::kUnallocated && backing_) {
      // What is read before `from` is the backing file's and stays so.
      const std::vector<std::byte> zeroes(std::min(at + cluster_size(), to) - from);
      lock.unlock();
      TRY_VOID(write(from, std::span<const std::byte>(zeroes)));
      at += cluster_size();
      continue;
    }
    if (m.kind != Kind::kUnallocated && !(m.kind == Kind::kZero && without_space(m.entry))) {
      // What is there already is reserved in so far as it was asked for.
      const uint64_t first = std::max(at, from), last = std::min(at + cluster_size(), to), host = m.host + (first - at);
      if (m.kind == Kind::kNormal && !data_file_ && header_.crypt == Crypt::kNone) {
        if (preallocation == Preallocation::kFalloc) TRY_VOID(file_->reserve(host, last - first));
        if (preallocation == Preallocation::kFull && at < from) TRY_VOID(file_->write(host, std::vector<std::byte>(last - first)));
      }
      at += cluster_size();
      continue;
    }
    uint64_t end = std::min(to, at - at % geometry_.l2_span() + geometry_.l2_span()), clusters = 0;
    Table* table = TRY(writable_l2(at));
    while (at + clusters * cluster_size() < end && without_space(entry_at(*table, at + clusters * cluster_size()))) ++clusters;
    Allocation a = TRY(allocate_data(at, clusters));
    for (uint64_t i = 0; i < a.clusters; ++i) {
      Entry now{(a.host + i * cluster_size()) | kCopied, 0};
      // Only fresh space is known to be zero; without a zero flag what was there before would be seen.
      // and zeroes of an encrypted image's file are not zeroes of its disk.
      const Entry old = entry_at(*table, at + i * cluster_size());
      bool zero = with_zero_flag || old.word || old.bitmap || !a.fresh || header_.crypt != Crypt::kNone;
      if (geometry_.extended_l2 && show_backing) now.bitmap = 0;
      else if (geometry_.extended_l2) now.bitmap = zero ? 0xffffffffull << 32 : 0xffffffff;
      else if (zero && v3()) now.word |= kZeroFlag;
      set_entry(*table, at + i * cluster_size(), now);
    }
    if (!a.fresh && !v3() && !data_file_ && header_.crypt == Crypt::kNone) TRY_VOID(file_->zero(a.host, a.clusters * cluster_size(), false));
    host_end = std::max(host_end, a.host + a.clusters * cluster_size());
    if (!data_file_ && preallocation == Preallocation::kFalloc) TRY_VOID(file_->reserve(a.host, a.clusters * cluster_size()));
    if (!data_file_ && preallocation == Preallocation::kFull) {
      std::vector<std::byte> zeroes(std::min<uint64_t>(1 << 20, a.clusters * cluster_size()));
      for (uint64_t done = 0; done < a.clusters * cluster_size(); done += zeroes.size())
        TRY_VOID(file_->write(a.host + done, std::span(zeroes).first(std::min(zeroes.size(), a.clusters * cluster_size() - done))));
    }
    at += a.clusters * cluster_size();
    lock.unlock();
    if (!v3() && header_.crypt != Crypt::kNone) {
      std::vector<std::byte> zeroes(cluster_size());
      uint64_t first = at - a.clusters * cluster_size();
      for (uint64_t c = first; c < std::min(at, header_.size); c += cluster_size())
        TRY_VOID(write(c, std::span<const std::byte>(zeroes).first(std::min(cluster_size(), header_.size - c))));
    }
    TRY_VOID(commit_if_full());
  }
  if (data_file_) return grow_file(*data_file_, std::min(from, data_file_->size()), std::max(to, data_file_->size()), preallocation);
  if (host_end > file_->size() && file_->grows()) TRY_VOID(file_->truncate(host_end));
  return {};
}

}  // namespace vireo::storage::qcow2
