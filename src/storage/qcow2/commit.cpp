// SPDX-License-Identifier: Apache-2.0
// Bringing metadata from memory to the file in an order that a power cut cannot break. A commit copies all that is dirty
// at one moment; while it writes and flushes, others go on.
#include <algorithm>

#include "base/log.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {

Result<> Qcow2::flush_files() {
  file_->event("flush_to_os");
  file_->event("flush_to_disk");
  if (flush_error_) return fail(ErrorKind::kIo, "'" + file_->name() + "': an earlier flush failed", flush_error_);
  Result<> result = data_file_ ? data_file_->flush() : Result<>{};
  if (result) result = file_->flush();
  if (!result) flush_error_ = result.error().code ? result.error().code : EIO;
  return result;
}

Result<> Qcow2::put_header_field(unsigned offset, std::span<const std::byte> bytes) { return file_->write(offset, bytes); }

Result<> Qcow2::set_dirty_bit(bool on) {
  header_.incompatible = on ? header_.incompatible | incompatible::kDirty : header_.incompatible & ~incompatible::kDirty;
  if (on && !obeys(Rule::kDirtyBeforeLazy)) return {};
  std::byte bits[8];
  store(bits, header_.incompatible);
  TRY_VOID(put_header_field(at::kIncompatible, bits));
  return file_->flush();
}

Result<> Qcow2::commit(bool durable) {
  auto result = commit_now(durable);
  told_ = !result;
  return result;
}

Result<> Qcow2::commit_now(bool durable) {
  std::lock_guard one(commit_mutex_);
  std::vector<TableWrite> blocks, tables;
  TableWrite reftable, l1;
  std::vector<Freed> frees;
  bool lazy;
  {
    std::lock_guard lock(mutex_);
    lazy = this->lazy() && dirty_marked_;
    if (!lazy) {
      blocks = refcounts_->blocks().take();
      if (refcounts_->table_dirty()) reftable = refcounts_->take_table();
    }
    tables = l2_->take();
    if (l1_dirty_to_) {
      uint64_t from = l1_dirty_from_ / 64 * 64, to = std::min<uint64_t>(round_up(l1_dirty_to_, 64), l1_.size());
      l1 = {header_.l1_offset + from * 8, std::vector<std::byte>((to - from) * 8), header_.l1_offset};
      for (uint64_t i = from; i < to; ++i) store(&l1.bytes[(i - from) * 8], l1_[i]);
      l1_dirty_from_ = l1_dirty_to_ = 0;
    }
    frees.swap(pending_);
    if (!obeys(Rule::kUnlinkBeforeFree)) {
      apply_frees(frees);
      auto more = refcounts_->blocks().take();
      for (auto& w : more) blocks.push_back(std::move(w));
    }
  }
  auto write_all = [&](const std::vector<TableWrite>& writes) -> Result<> {
    for (const TableWrite& w : writes) TRY_VOID(file_->write(w.offset, w.bytes));
    return {};
  };
  auto work = [&]() -> Result<> {
    if (!obeys(Rule::kRefcountsBeforeL2)) {
      TRY_VOID(write_all(tables));
      if (!l1.bytes.empty()) TRY_VOID(file_->write(l1.offset, l1.bytes));
      TRY_VOID(write_all(blocks));
      if (!reftable.bytes.empty()) TRY_VOID(file_->write(reftable.offset, reftable.bytes));
      return durable && obeys(Rule::kFlushAtEnd) ? flush_files() : Result<>{};
    }
    if (!blocks.empty()) file_->event("refblock_update");
    TRY_VOID(write_all(blocks));
    if (!reftable.bytes.empty()) {
      file_->event("reftable_update");
      if (obeys(Rule::kBlockBeforeReftable)) TRY_VOID(flush_files());
      // A block may be counted by one that an earlier entry names (see allocate_long): sectors become stable in order.
      constexpr uint64_t kSector = 512;
      for (uint64_t at = 0; at < reftable.bytes.size(); at += kSector) {
        if (at) TRY_VOID(flush_files());
        TRY_VOID(file_->write(reftable.offset + at, std::span(reftable.bytes).subspan(at, std::min(kSector, reftable.bytes.size() - at))));
      }
    }
    if (!tables.empty() || !l1.bytes.empty()) {
      // This makes the data stable as well: entries in `tables` came after it.
      if (obeys(Rule::kDataBeforeL2)) TRY_VOID(flush_files());
      if (!tables.empty()) file_->event("l2_update");
      TRY_VOID(write_all(tables));
      if (!l1.bytes.empty()) {
        file_->event("l1_update");
        if (obeys(Rule::kL2BeforeL1)) TRY_VOID(flush_files());
        TRY_VOID(file_->write(l1.offset, l1.bytes));
      }
    }
    if ((durable && obeys(Rule::kFlushAtEnd)) || !frees.empty()) TRY_VOID(flush_files());
    return {};
  };
  auto result = work();
  std::lock_guard lock(mutex_);
  refcounts_->blocks().written(blocks, result.has_value());
  l2_->written(tables, result.has_value());
  if (!result) {
    if (!reftable.bytes.empty()) refcounts_->table_written(reftable, false);
    if (!l1.bytes.empty() && l1.table == header_.l1_offset) {
      uint64_t from = (l1.offset - l1.table) / 8, to = std::min<uint64_t>(from + l1.bytes.size() / 8, l1_.size());
      l1_dirty_from_ = l1_dirty_to_ ? std::min(l1_dirty_from_, from) : from;
      l1_dirty_to_ = std::max(l1_dirty_to_, to);
    }
    pending_.insert(pending_.begin(), frees.begin(), frees.end());
    return result;
  }
  if (obeys(Rule::kUnlinkBeforeFree)) apply_frees(frees);
  cool();
  l2_->trim();
  refcounts_->blocks().trim();
  return {};
}

// What was unlinked is so on the disk: now its references are counted down.
void Qcow2::apply_frees(std::vector<Freed>& frees) {
  for (const Freed& freed : frees) {
    for (uint64_t cluster = freed.cluster; cluster < freed.cluster + freed.count; ++cluster) {
      auto left = refcounts_->subtract(cluster);
      if (!left) {
        log(LogLevel::kWarning, "qcow2: '%s': freeing: %s", file_->name().c_str(), left.error().message.c_str());
        continue;
      }
      if (*left) continue;
      if (compressed_next_ && (compressed_next_ - 1) >> geometry_.cluster_bits == cluster) compressed_next_ = 0;
      if (!obeys(Rule::kReuseAfterUnlink)) continue;
      refcounts_->quarantine(cluster);
      cooling_.push_back({cluster, epoch_, freed.give_back});
    }
  }
  if (!frees.empty()) ++epoch_;
}

void Qcow2::cool() {
  uint64_t oldest = holds_.empty() ? epoch_ : holds_.begin()->first;
  bool any = false;
  std::erase_if(cooling_, [&](const Cooling& c) {
    if (c.epoch >= oldest) return false;
    if (c.give_back && config_.discard) file_->discard(c.cluster << geometry_.cluster_bits, cluster_size());
    refcounts_->release(c.cluster);
    any = true;
    return true;
  });
  if (any && decompressed_) decompressed_->clear();
}

Result<> Qcow2::commit_if_full() {
  {
    std::lock_guard lock(mutex_);
    if (l2_->dirty_bytes() < l2_->limit() / 2 && refcounts_->blocks().dirty_bytes() < refcounts_->blocks().limit() / 2 &&
        pending_.size() < 16384)
      return {};
  }
  return commit(false);
}

Result<> Qcow2::flush() {
  if (file_->read_only()) return {};
  return commit(true);
}

Result<> Qcow2::close() {
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(closed_, true)) return {};
  }
  if (file_->read_only()) return {};
  Result<> result = commit(true);
  if (result && !corrupt_) result = store_bitmaps();
  // The first one may have freed what the second one writes.
  if (result) result = commit(true);
  if (result) result = drop_reserved();
  if (result && dirty_marked_ && !corrupt_) {
    {
      std::lock_guard lock(mutex_);
      dirty_marked_ = false;
    }
    if (!obeys(Rule::kCleanAfterRefcounts)) {
      result = set_dirty_bit(false);
      if (result) result = commit(true);
    } else {
      result = commit(true);
      if (result) result = set_dirty_bit(false);
    }
  }
  return result;
}

Qcow2::~Qcow2() {
  const bool told = told_;  // or a full disk would be said twice
  if (auto result = close(); !result && !told && !flush_error_) log(LogLevel::kError, "%s", result.error().message.c_str());
}

}  // namespace vireo::storage::qcow2
