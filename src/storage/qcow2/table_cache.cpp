// SPDX-License-Identifier: Apache-2.0
#include "storage/qcow2/table_cache.h"

#include <algorithm>

namespace vireo::storage::qcow2 {

Table* TableCache::find(uint64_t offset) {
  auto found = tables_.find(offset);
  if (found == tables_.end()) return nullptr;
  found->second.used = ++clock_;
  return &found->second;
}

Result<Table*> TableCache::load(uint64_t offset) {
  if (Table* table = find(offset)) return table;
  auto bytes = std::make_unique_for_overwrite<std::byte[]>(size_);
  TRY_VOID(file_.read(offset, {bytes.get(), size_}));
  Table& table = tables_[offset];
  table.offset = offset;
  table.bytes = std::move(bytes);
  table.used = ++clock_;
  return &table;
}

Table* TableCache::fresh(uint64_t offset) {
  Table& table = tables_[offset];
  table.offset = offset;
  table.bytes = std::make_unique<std::byte[]>(size_);
  table.used = ++clock_;
  dirty(table, 0, size_);
  return &table;
}

void TableCache::dirty(Table& table, uint64_t from, uint64_t length) {
  if (table.dirty_to == 0) {
    table.dirty_from = from;
    table.dirty_to = std::min(from + length, size_);
    ++dirty_count_;
  } else {
    table.dirty_from = std::min(table.dirty_from, from);
    table.dirty_to = std::max(table.dirty_to, std::min(from + length, size_));
  }
}

void TableCache::drop(uint64_t offset) {
  auto found = tables_.find(offset);
  if (found == tables_.end()) return;
  dirty_count_ -= found->second.dirty_to != 0;
  tables_.erase(found);
}

std::vector<TableWrite> TableCache::take() {
  std::vector<TableWrite> out;
  if (dirty_count_ == 0) return out;
  for (auto& [offset, table] : tables_) {
    if (table.dirty_to == 0) continue;
    // Whole sectors: the unit in which a disk writes.
    uint64_t from = table.dirty_from / 512 * 512, to = std::min((table.dirty_to + 511) / 512 * 512, size_);
    out.push_back({offset + from, {table.bytes.get() + from, table.bytes.get() + to}, offset});
    table.dirty_from = table.dirty_to = 0;
    table.writing = true;
  }
  dirty_count_ = 0;
  std::ranges::sort(out, {}, &TableWrite::offset);
  return out;
}

std::vector<TableWrite> TableCache::unwritten() const {
  std::vector<TableWrite> out;
  for (auto& [offset, table] : tables_)
    if (table.writing || table.dirty_to) out.push_back({offset, {table.bytes.get(), table.bytes.get() + size_}, offset});
  std::ranges::sort(out, {}, &TableWrite::offset);
  return out;
}

void TableCache::written(const std::vector<TableWrite>& writes, bool ok) {
  for (const TableWrite& write : writes) {
    auto found = tables_.find(write.table);
    if (found == tables_.end()) continue;
    found->second.writing = false;
    if (!ok) dirty(found->second, write.offset - write.table, write.bytes.size());
  }
}

void TableCache::trim() {
  if (tables_.size() * size_ <= limit_) return;
  std::vector<std::pair<uint64_t, uint64_t>> clean;  // last use, offset
  for (auto& [offset, table] : tables_)
    if (table.dirty_to == 0 && !table.writing) clean.emplace_back(table.used, offset);
  std::ranges::sort(clean);
  for (auto& [used, offset] : clean) {
    if (tables_.size() * size_ <= limit_ * 3 / 4) break;
    tables_.erase(offset);
  }
}

void TableCache::forget_all() {
  tables_.clear();
  dirty_count_ = 0;
}

}  // namespace vireo::storage::qcow2
