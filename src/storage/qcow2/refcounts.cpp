// SPDX-License-Identifier: Apache-2.0
#include "storage/qcow2/refcounts.h"

#include <algorithm>

namespace vireo::storage::qcow2 {

Result<> Refcounts::load() {
  std::vector<std::byte> raw(static_cast<uint64_t>(header_.reftable_clusters) << geometry_.cluster_bits);
  TRY_VOID(file_.read(header_.reftable_offset, raw));
  table_.resize(raw.size() / 8);
  for (size_t i = 0; i < table_.size(); ++i) table_[i] = storage::qcow2::load<uint64_t>(&raw[i * 8]);
  return {};
}

Result<Table*> Refcounts::block_for(uint64_t cluster, bool create) {
  uint64_t index = cluster / geometry_.refblock_entries();
  if (index >= table_.size()) {
    if (!create) return nullptr;
    TRY_VOID(grow_table(index + 1));
    if (uint64_t offset = table_[index] & kReftableMask) return blocks_.load(offset);
  }
  uint64_t entry = table_[index];
  if (entry & kReftableReserved || geometry_.in_cluster(entry & kReftableMask))
    return fail(ErrorKind::kCorrupt, "refcount table entry " + std::to_string(index) + " is invalid", EIO);
  if (entry) return blocks_.load(entry);
  if (!create) return nullptr;
  return new_block(index);
}

Result<uint64_t> Refcounts::get(uint64_t cluster) {
  Table* block = TRY(block_for(cluster, false));
  return block ? get_refcount(block->bytes.get(), geometry_.refcount_order, cluster % geometry_.refblock_entries()) : 0;
}

namespace {
void change(TableCache& cache, Table& block, const Geometry& g, uint64_t index, uint64_t value) {
  set_refcount(block.bytes.get(), g.refcount_order, index, value);
  cache.dirty(block, index * g.refcount_bits() / 8, std::max(1u, g.refcount_bits() / 8));
}
}  // namespace

Result<> Refcounts::add(uint64_t cluster, uint64_t by) {
  Table* block = TRY(block_for(cluster, true));
  uint64_t index = cluster % geometry_.refblock_entries();
  uint64_t now = get_refcount(block->bytes.get(), geometry_.refcount_order, index);
  if (by > geometry_.refcount_max() - now) return fail(ErrorKind::kBusy, "a cluster's reference count is at its maximum", EINVAL);
  change(blocks_, *block, geometry_, index, now + by);
  return {};
}

Result<uint64_t> Refcounts::subtract(uint64_t cluster, uint64_t by) {
  Table* block = TRY(block_for(cluster, false));
  uint64_t index = cluster % geometry_.refblock_entries();
  uint64_t now = block ? get_refcount(block->bytes.get(), geometry_.refcount_order, index) : 0;
  if (now < by) return fail(ErrorKind::kCorrupt, "the reference count of cluster " + std::to_string(cluster) + " is too small", EIO);
  change(blocks_, *block, geometry_, index, now - by);
  if (now == by) free_from_ = std::min(free_from_, cluster);
  return now - by;
}

Result<> Refcounts::change_row(uint64_t cluster, uint64_t count, int by, uint64_t& done) {
  const uint64_t per = geometry_.refblock_entries();
  for (done = 0; done < count;) {
    uint64_t index = (cluster + done) % per, n = std::min(count - done, per - index);
    Table* block = TRY(block_for(cluster + done, by > 0));
    uint64_t i = 0;
    for (; block && i < n; ++i) {
      uint64_t now = get_refcount(block->bytes.get(), geometry_.refcount_order, index + i);
      if (by > 0 ? now == geometry_.refcount_max() : now == 0) break;
      set_refcount(block->bytes.get(), geometry_.refcount_order, index + i, now + static_cast<uint64_t>(static_cast<int64_t>(by)));
      if (by < 0 && now == 1) free_from_ = std::min(free_from_, cluster + done + i);
    }
    if (i) blocks_.dirty(*block, index * geometry_.refcount_bits() / 8, divide_up(i * geometry_.refcount_bits(), 8) + 1);
    done += i;
    if (i < n)
      return by > 0 ? fail(ErrorKind::kBusy, "a cluster's reference count is at its maximum", EINVAL)
                    : fail(ErrorKind::kCorrupt, "the reference count of cluster " + std::to_string(cluster + done) + " is too small", EIO);
  }
  return {};
}

void Refcounts::release(uint64_t cluster) {
  held_back_.erase(cluster);
  free_from_ = std::min(free_from_, cluster);
}

Result<uint64_t> Refcounts::allocate_at(uint64_t cluster, uint64_t count) {
  uint64_t got = 0;
  for (; got < count; ++got) {
    if (held_back_.contains(cluster + got)) break;
    Table* block = TRY(block_for(cluster + got, true));
    uint64_t index = (cluster + got) % geometry_.refblock_entries();
    if (get_refcount(block->bytes.get(), geometry_.refcount_order, index) != 0) break;
    change(blocks_, *block, geometry_, index, 1);
  }
  return got;
}

Result<Refcounts::Run> Refcounts::allocate(uint64_t wanted, uint64_t least) {
  if (least >= geometry_.refblock_entries()) return allocate_long(least);
  bool all_taken = true;  // up to where the search is
  for (uint64_t at = free_from_;;) {
    if (at >> (63 - geometry_.cluster_bits)) return fail(ErrorKind::kIo, "no space in the image", EFBIG);
    Run run{at, 0};
    while (run.count < wanted) {
      uint64_t cluster = at + run.count;
      uint64_t used = held_back_.contains(cluster) ? 1 : TRY(get(cluster));
      if (used) break;
      ++run.count;
    }
    if (run.count < least) {
      if (run.count > 0) all_taken = false;
      at += run.count + 1;
      if (all_taken) free_from_ = at;
      continue;
    }
    // Making a block for them may take some of them: then what is left counts.
    uint64_t got = TRY(allocate_at(run.cluster, run.count));
    if (got >= least) {
      if (all_taken) free_from_ = run.cluster + got;
      return Run{run.cluster, got};
    }
    for (uint64_t i = 0; i < got; ++i) TRY(subtract(run.cluster + i));
  }
}

// A row longer than what one block counts never lies between blocks that are each at the start of their own range. Where there are no blocks yet,
// theirs go before it, in a row: each in its own range or one before, which is what a commit's order of writing the table relies on.
Result<Refcounts::Run> Refcounts::allocate_long(uint64_t count) {
  const uint64_t per = geometry_.refblock_entries();
  auto counted = [&] {
    uint64_t end = table_.size();
    while (end > 0 && !(table_[end - 1] & kReftableMask)) --end;
    return end;
  };
  uint64_t row = 0;
  for (uint64_t at = free_from_; at < counted() * per; ++at) {
    Table* block = TRY(block_for(at, false));
    const bool free = block && !held_back_.contains(at) && get_refcount(block->bytes.get(), geometry_.refcount_order, at % per) == 0;
    row = free ? row + 1 : 0;
    if (row == count && TRY(allocate_at(at + 1 - count, count)) == count) return Run{at + 1 - count, count};
  }
  const uint64_t blocks = divide_up(count, per - 1);
  while (counted() + blocks > table_.size()) TRY_VOID(grow_table(counted() + blocks));
  const uint64_t range = counted(), first = range * per;
  if ((first + blocks + count) >> (63 - geometry_.cluster_bits)) return fail(ErrorKind::kIo, "no space in the image", EFBIG);
  for (uint64_t cluster = first; cluster < first + blocks + count; ++cluster)
    if (held_back_.contains(cluster) || (is_metadata && is_metadata(cluster)))
      return fail(ErrorKind::kCorrupt, "refcount block " + std::to_string(cluster / per) + " is missing though its clusters are in use", EIO);
  file_.event("refblock_alloc");
  for (uint64_t i = 0; i < blocks; ++i) {
    blocks_.fresh((first + i) << geometry_.cluster_bits);
    table_[range + i] = (first + i) << geometry_.cluster_bits;
    mark(first + i, true);
  }
  dirty_from_ = dirty_to_ ? std::min(dirty_from_, range) : range;
  dirty_to_ = std::max(dirty_to_, range + blocks);
  uint64_t done;
  TRY_VOID(change_row(first, blocks + count, 1, done));
  return Run{first + blocks, count};
}

// The block lies in the range that it counts: nothing there is used, since there was no block.
Result<Table*> Refcounts::new_block(uint64_t index) {
  const uint64_t per = geometry_.refblock_entries(), first = index * per;
  uint64_t cluster = first;
  while (cluster < first + per && held_back_.contains(cluster)) ++cluster;
  if (cluster == first + per || (is_metadata && is_metadata(cluster)))
    return fail(ErrorKind::kCorrupt, "refcount block " + std::to_string(index) + " is missing though its clusters are in use", EIO);
  uint64_t offset = cluster << geometry_.cluster_bits;
  file_.event("refblock_alloc");
  Table* block = blocks_.fresh(offset);
  set_refcount(block->bytes.get(), geometry_.refcount_order, cluster % per, 1);
  table_[index] = offset;
  dirty_from_ = dirty_to_ ? std::min(dirty_from_, index) : index;
  dirty_to_ = std::max(dirty_to_, index + 1);
  mark(cluster, true);
  return block;
}

TableWrite Refcounts::take_table() {
  uint64_t from = dirty_from_ / 64 * 64, to = std::min<uint64_t>(round_up(dirty_to_, 64), table_.size());
  TableWrite write{header_.reftable_offset + from * 8, std::vector<std::byte>((to - from) * 8), header_.reftable_offset};
  for (uint64_t i = from; i < to; ++i) store(&write.bytes[(i - from) * 8], table_[i]);
  dirty_from_ = dirty_to_ = 0;
  return write;
}

void Refcounts::table_written(const TableWrite& write, bool ok) {
  if (ok || write.table != header_.reftable_offset) return;
  uint64_t from = (write.offset - write.table) / 8, to = from + write.bytes.size() / 8;
  dirty_from_ = dirty_to_ ? std::min(dirty_from_, from) : from;
  dirty_to_ = std::max(dirty_to_, to);
}

// The new table lies where the old one's range ends, with blocks behind it that count table and blocks. It is complete on
// the disk before the header names it, in one write.
Result<> Refcounts::grow_table(uint64_t least_entries) {
  const uint64_t per = geometry_.refblock_entries(), cluster_size = geometry_.cluster_size(), first = table_.size() * per;
  uint64_t blocks = 1, clusters;
  for (;;) {
    uint64_t entries = std::max<uint64_t>({least_entries, table_.size() + blocks, table_.size() + table_.size() / 2});
    clusters = divide_up(entries * 8, cluster_size);
    uint64_t need = divide_up(clusters + blocks, per);
    if (need <= blocks) break;
    blocks = need;
  }
  if (clusters * cluster_size > kMaxReftableBytes) return fail(ErrorKind::kIo, "the refcount table is as large as it may be", EFBIG);
  // Table entries that are new in memory name blocks that may not be in the file.
  TRY_VOID(write_blocks());
  std::vector<uint64_t> table = table_;
  table.resize(clusters * cluster_size / 8);
  std::vector<Table*> made;
  for (uint64_t i = 0; i < blocks; ++i) {
    uint64_t cluster = first + clusters + i;
    table[table_.size() + i] = cluster << geometry_.cluster_bits;
    made.push_back(blocks_.fresh(cluster << geometry_.cluster_bits));
  }
  for (uint64_t i = 0; i < clusters + blocks; ++i)
    set_refcount(made[i / per]->bytes.get(), geometry_.refcount_order, i % per, 1);
  std::vector<std::byte> raw(table.size() * 8);
  for (size_t i = 0; i < table.size(); ++i) store(&raw[i * 8], table[i]);
  bool named = false;
  auto put = [&]() -> Result<> {
    for (Table* block : made) TRY_VOID(file_.write(block->offset, {block->bytes.get(), cluster_size}));
    TRY_VOID(file_.write(first << geometry_.cluster_bits, raw));
    TRY_VOID(file_.flush());
    std::byte fields[12];
    store(fields, static_cast<uint64_t>(first << geometry_.cluster_bits));
    store(fields + 8, static_cast<uint32_t>(clusters));
    named = true;
    TRY_VOID(file_.write(at::kReftable, fields));
    return file_.flush();
  };
  if (auto result = put(); !result) {
    for (Table* block : made) blocks_.drop(block->offset);
    if (named) {
      // The header may say so all the same, so what lies there must stay.
      for (uint64_t i = 0; i < clusters + blocks; ++i) quarantine(first + i);
      if (on_doubt) on_doubt(result.error().code ? result.error().code : EIO);
    }
    return result;
  }
  uint64_t old = header_.reftable_offset >> geometry_.cluster_bits, old_clusters = header_.reftable_clusters;
  header_.reftable_offset = first << geometry_.cluster_bits;
  header_.reftable_clusters = static_cast<uint32_t>(clusters);
  table_ = std::move(table);
  dirty_from_ = dirty_to_ = 0;
  for (uint64_t i = 0; i < clusters + blocks; ++i) mark(first + i, true);
  for (uint64_t i = 0; i < old_clusters; ++i) {
    mark(old + i, false);
    if (on_free) on_free(old + i);
  }
  return {};
}

Result<> Refcounts::write_blocks() {
  // Those that a commit under way has taken as well: nobody knows how far it is. What is dirty stays so, since that commit may still write
  // an older copy over these.
  for (const TableWrite& write : blocks_.unwritten()) TRY_VOID(file_.write(write.offset, write.bytes));
  return file_.flush();
}

}  // namespace vireo::storage::qcow2
