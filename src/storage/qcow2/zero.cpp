// SPDX-License-Identifier: Apache-2.0
// Zeroes and discards. Whole clusters (or subclusters) change their entries; what is left at the ends is written as zeroes.
#include <algorithm>

#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {

// [from, to) are whole clusters, or the last one ends with the disk. `discard`: contents may stay what they are.
Result<> Qcow2::zero_clusters(uint64_t from, uint64_t to, bool may_unmap, bool discard, std::unique_lock<std::mutex>& lock) {
  for (uint64_t at = from; at < to; at += cluster_size()) {
    wait_idle(at, at + cluster_size(), lock);
    if (discard && !backing_ && !TRY(l2_table(at))) {  // nothing at all in this table's span
      at = at - at % geometry_.l2_span() + geometry_.l2_span() - cluster_size();
      continue;
    }
    Mapping m = TRY(map(at, cluster_size()));
    const Entry old = m.entry;
    const bool present = old.word & (kOffsetMask | kCompressed) || (data_file_ && old.word & kCopied);
    const bool all_zero = geometry_.extended_l2 ? !(old.word & kCompressed) && old.bitmap >> 32 == 0xffffffff && !(old.bitmap & 0xffffffff)
                                                : v3() && !(old.word & kCompressed) && old.word & kZeroFlag;
    if (!present && (all_zero || !backing_)) {
      // Reads as zeroes. An overlay may still be put over something later: a zero write says so expressly.
      if (discard || all_zero || !v3()) continue;
    }
    if (!discard && all_zero && !may_unmap) continue;
    // A file whose offsets are the disk's must hold the zeroes itself, whoever reads it.
    if (data_file_ && header_.data_file_raw())
      TRY_VOID(data_file_->zero(at, std::min(cluster_size(), header_.size - at), true));
    bool unmap = present && (may_unmap || discard || old.word & kCompressed);
    Entry now;
    now.word = unmap ? 0 : old.word & ~kZeroFlag;
    if (geometry_.extended_l2) now.bitmap = 0xffffffffull << 32;
    else if (v3()) now.word |= kZeroFlag;
    if (data_file_ && header_.data_file_raw()) now.word = at | kCopied | (geometry_.extended_l2 ? 0 : kZeroFlag);
    Table* table = TRY(writable_l2(at));
    set_entry(*table, at, now);
    if (unmap) release_entry(old, true);
  }
  return {};
}

// As many tables at a time as the cache is meant for.
Result<> Qcow2::zero_in_steps(uint64_t from, uint64_t to, bool may_unmap, bool discard) {
  const uint64_t span = geometry_.l2_span();
  while (from < to) {
    uint64_t end = std::min(to, from - from % span + span);
    {
      std::unique_lock lock(mutex_);
      TRY_VOID(zero_clusters(from, end, may_unmap, discard, lock));
    }
    TRY_VOID(commit_if_full());
    from = end;
  }
  return {};
}

// Part [from, to) of the unit at `unit` (a cluster or subcluster): where all of the unit reads as zeroes then, its entry can say so. False: not so.
Result<bool> Qcow2::zero_unit(uint64_t unit, uint64_t from, uint64_t to, bool may_unmap) {
  if (!v3() || data_file_) return false;
  const uint64_t end = std::min(unit + write_unit(), header_.size);
  const bool whole = from == unit && to == end;
  for (auto [at, until] : {std::pair{unit, from}, std::pair{to, end}}) {
    while (at < until) {
      DeepExtent here = TRY(status_above(*this, nullptr, at, until - at));
      if (!here.zero) return false;
      at += here.length;
    }
  }
  std::unique_lock lock(mutex_);
  const uint64_t cluster = geometry_.cluster_start(unit);
  wait_idle(cluster, cluster + cluster_size(), lock);
  // Who wrote to it meanwhile has made it data.
  Mapping m = TRY(map(unit, 1));
  if (m.kind == Kind::kCompressed || m.kind == Kind::kInvalid || (m.kind == Kind::kNormal && !whole)) return false;
  const bool zero = m.kind == Kind::kZero || m.kind == Kind::kZeroAllocated;
  if (zero && !may_unmap) return true;
  if (!geometry_.extended_l2) {
    TRY_VOID(zero_clusters(unit, unit + 1, may_unmap, false, lock));
    return true;
  }
  Table* table = TRY(writable_l2(unit));
  Entry entry = entry_at(*table, unit);
  const uint64_t bit = 1ull << (geometry_.in_cluster(unit) / geometry_.subcluster_size());
  entry.bitmap = (entry.bitmap & ~bit) | bit << 32;
  set_entry(*table, unit, entry);
  return true;
}

Result<> Qcow2::write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) {
  TRY_VOID(writable_check(offset, length));
  const uint64_t end = offset + length;
  uint64_t first = std::min(round_up(offset, cluster_size()), end);
  uint64_t last = end == header_.size ? end : geometry_.cluster_start(end);
  if (!v3() && (backing_ || !may_unmap)) first = last = end;  // no zero flag: zeroes must be written
  if (last < first) first = last = end;
  // What is less than a cluster: nothing to do where zeroes are read already.
  auto by_hand = [&](uint64_t from, uint64_t to) -> Result<> {
    while (from < to) {
      DeepExtent here = TRY(status_above(*this, nullptr, from, std::min<uint64_t>(to - from, 1 << 20)));
      // In an overlay the zeroes become its own, as if the backing file had something else there.
      if (!here.zero || (backing_ && here.layer != this)) {
        std::vector<std::byte> zeroes(here.length);
        TRY_VOID(write(from, std::span<const std::byte>(zeroes)));
      }
      from += here.length;
    }
    return {};
  };
  auto in_units = [&](uint64_t from, uint64_t to) -> Result<> {
    if (!v3()) return by_hand(from, to);
    while (from < to) {
      const uint64_t unit = from - from % write_unit(), until = std::min(unit + write_unit(), to);
      if (!TRY(zero_unit(unit, from, until, may_unmap))) TRY_VOID(by_hand(from, until));
      from = until;
    }
    return {};
  };
  TRY_VOID(in_units(offset, first));
  TRY_VOID(zero_in_steps(first, last, may_unmap, false));
  TRY_VOID(in_units(last, end));
  return commit_if_full();
}

Result<> Qcow2::discard(uint64_t offset, uint64_t length) {
  TRY_VOID(writable_check(offset, length));
  const uint64_t end = offset + length;
  uint64_t first = round_up(offset, cluster_size()), last = end == header_.size ? end : geometry_.cluster_start(end);
  // Without a zero flag the backing file's old contents would come up.
  if (first >= last || (!v3() && backing_)) return {};
  TRY_VOID(zero_in_steps(first, last, true, true));
  return commit_if_full();
}

}  // namespace vireo::storage::qcow2
