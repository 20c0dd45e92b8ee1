// SPDX-License-Identifier: Apache-2.0
// Comparing what was counted with what the refcounts say; repairing.
#include "storage/qcow2/check.h"

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

Result<std::vector<std::byte>*> Checker::block_of(uint64_t cluster) {
  uint64_t index = cluster / g_.refblock_entries();
  if (index >= reftable_.size() || reftable_[index] == 0) return nullptr;
  auto found = blocks_.find(index);
  if (found == blocks_.end()) {
    if (blocks_.size() > 256 && changed_blocks_.empty()) blocks_.clear();
    found = blocks_.emplace(index, std::vector<std::byte>(g_.cluster_size())).first;
    TRY_VOID(file_.read(reftable_[index], found->second));
  }
  return &found->second;
}

Result<uint64_t> Checker::stored(uint64_t cluster) {
  auto* block = TRY(block_of(cluster));
  return block ? get_refcount(block->data(), g_.refcount_order, cluster % g_.refblock_entries()) : 0;
}

Result<> Checker::compare(Repair fix) {
  const uint64_t per = g_.refblock_entries();
  uint64_t highest = 0;
  auto look = [&](uint64_t cluster) -> Result<> {
    uint64_t have = TRY(stored(cluster)), should = references_.get(cluster);
    if (have || should) highest = std::max(highest, cluster);
    if (have == should) return {};
    bool leak = have > should;
    auto* block = TRY(block_of(cluster));
    // What is in use and counts as free may have been given out again already: such counts are of no use.
    if (have == 0) needs_rebuild_ = true;
    bool fixable = (leak ? fix != Repair::kNone : fix == Repair::kAll && have != 0) && block && should <= g_.refcount_max();
    say_(text("%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64, fixable ? "Repairing" : leak ? "Leaked" : "ERROR", cluster, have, should));
    if (fixable) {
      set_refcount(block->data(), g_.refcount_order, cluster % per, should);
      if (changed_blocks_.empty() || changed_blocks_.back() != cluster / per) changed_blocks_.push_back(cluster / per);
      leak ? ++result_.leaks_fixed : ++result_.corruptions_fixed;
    } else {
      leak ? ++result_.leaks : ++result_.corruptions;
    }
    return {};
  };
  // What has a block or a reference, in order; all else is free on both sides.
  uint64_t step = std::min(per, ReferenceCount::kChunk), done_to = 0;
  std::vector<uint64_t> starts;
  for (uint64_t i = 0; i < reftable_.size(); ++i)
    if (reftable_[i])
      for (uint64_t c = i * per; c < (i + 1) * per; c += step) starts.push_back(c);
  for (auto& [chunk, counts] : references_.chunks())
    for (uint64_t c = chunk * ReferenceCount::kChunk; c < (chunk + 1) * ReferenceCount::kChunk; c += step) starts.push_back(c);
  std::ranges::sort(starts);
  for (uint64_t start : starts) {
    if (start < done_to) continue;
    for (uint64_t c = start; c < start + step; ++c) TRY_VOID(look(c));
    done_to = start + step;
  }
  result_.image_end = (highest + 1) << g_.cluster_bits;
  return {};
}

Result<> Checker::write_blocks() {
  for (uint64_t index : changed_blocks_) TRY_VOID(file_.write(reftable_[index], blocks_.at(index)));
  if (!changed_blocks_.empty()) TRY_VOID(file_.flush());
  changed_blocks_.clear();
  return {};
}

// A new table and new blocks for everything that is referenced, behind the end of the file. The old ones count as well until the
// header names the new ones, and are leaks then.
Result<> Checker::rebuild() {
  say_("Rebuilding refcount structure");
  const CheckResult before = result_;
  ReferenceCount& counts = references_;
  const uint64_t per = g_.refblock_entries(), first = std::max(file_end_ >> g_.cluster_bits, references_.end());
  std::vector<uint64_t> ranges;
  for (auto& [chunk, numbers] : counts.chunks())
    for (uint64_t k = 0; k < ReferenceCount::kChunk; ++k)
      if (numbers[k]) {
        uint64_t range = (chunk * ReferenceCount::kChunk + k) / per;
        if (ranges.empty() || ranges.back() != range) ranges.push_back(range);
      }
  uint64_t blocks = ranges.size(), table = 1;
  std::vector<uint64_t> all;
  for (;;) {
    all = ranges;
    for (uint64_t r = first / per; r <= (first + blocks + table - 1) / per; ++r) all.push_back(r);
    std::ranges::sort(all);
    all.erase(std::unique(all.begin(), all.end()), all.end());
    uint64_t need_table = divide_up((all.back() + 1) * 8, g_.cluster_size());
    if (all.size() == blocks && need_table == table) break;
    blocks = all.size();
    table = need_table;
  }
  if (table << g_.cluster_bits > kMaxReftableBytes) return fail(ErrorKind::kCorrupt, "the refcount table would become too large", EFBIG);
  for (uint64_t c = first; c < first + blocks + table; ++c) counts.add(c);
  const uint64_t table_at = first + blocks;
  std::vector<std::byte> raw(table << g_.cluster_bits);
  for (uint64_t i = 0; i < blocks; ++i) {
    std::vector<std::byte> block(g_.cluster_size());
    for (uint64_t k = 0; k < per; ++k)
      if (uint64_t n = counts.get(all[i] * per + k)) set_refcount(block.data(), g_.refcount_order, k, std::min(n, g_.refcount_max()));
    uint64_t offset = (first + i) << g_.cluster_bits;
    TRY_VOID(file_.write(offset, block));
    store(&raw[all[i] * 8], offset);
  }
  TRY_VOID(file_.write(table_at << g_.cluster_bits, raw));
  TRY_VOID(file_.flush());
  std::byte fields[12];
  store(fields, table_at << g_.cluster_bits);
  store(fields + 8, static_cast<uint32_t>(table));
  TRY_VOID(file_.write(at::kReftable, fields));
  TRY_VOID(file_.flush());
  header_.reftable_offset = table_at << g_.cluster_bits;
  header_.reftable_clusters = static_cast<uint32_t>(table);
  file_size_ = file_.size();
  file_end_ = round_up(file_size_, g_.cluster_size());
  // From here on it is counted anew.
  blocks_.clear();
  references_ = {};
  needs_rebuild_ = false;
  result_.corruptions = result_.leaks = 0;
  result_.allocated_clusters = result_.fragmented_clusters = result_.compressed_clusters = 0;
  TRY_VOID(count_all(Repair::kNone));
  const CheckResult counted = result_;
  result_ = {};
  TRY_VOID(compare(Repair::kLeaks));
  if (needs_rebuild_) say_("ERROR rebuilt refcount structure is still broken");
  TRY_VOID(write_blocks());
  const uint64_t fresh_leaks = result_.leaks, end = result_.image_end;
  result_ = counted;
  result_.image_end = end;
  if (before.corruptions > result_.corruptions) result_.corruptions_fixed += before.corruptions - result_.corruptions;
  if (before.leaks > result_.leaks) result_.leaks_fixed += before.leaks - result_.leaks;
  result_.leaks += fresh_leaks;
  return {};
}

// COPIED says that a cluster has one user. Only the active tables' bits count.
Result<> Checker::check_copied() {
  bool fix = repair_ == Repair::kAll || (repair_ == Repair::kLeaks && !result_.errors && !result_.corruptions && !result_.leaks);
  const char* word = fix ? "Repairing" : "ERROR";
  auto count_fix = [&] { fix ? ++result_.corruptions_fixed : ++result_.corruptions; };
  if (!in_file(header_.l1_offset, header_.l1_size * 8ull)) return {};
  std::vector<std::byte> raw(header_.l1_size * 8ull);
  if (!raw.empty()) TRY_VOID(file_.read(header_.l1_offset, raw));
  std::vector<std::byte> table(g_.cluster_size());
  for (uint64_t i = 0; i < header_.l1_size; ++i) {
    auto entry = load<uint64_t>(&raw[i * 8]);
    uint64_t l2 = entry & kOffsetMask;
    if (l2 == 0 || g_.in_cluster(l2) || !in_file(l2, g_.cluster_size())) continue;
    uint64_t count = TRY(stored(l2 >> g_.cluster_bits));
    if ((count == 1) != ((entry & kCopied) != 0)) {
      say_(text("%s OFLAG_COPIED L2 cluster: l1_index=%" PRIu64 " l1_entry=%" PRIx64 " refcount=%" PRIu64, word, i, entry, count));
      count_fix();
      std::byte now[8];
      store(now, count == 1 ? entry | kCopied : entry & ~kCopied);
      if (fix) TRY_VOID(file_.write(header_.l1_offset + i * 8, now));
    }
    TRY_VOID(file_.read(l2, table));
    bool changed = false;
    for (uint64_t k = 0; k < g_.l2_entries(); ++k) {
      std::byte* p = &table[k * g_.l2_entry_size()];
      auto e = load<uint64_t>(p);
      if (e & kCompressed) continue;
      uint64_t host = e & kOffsetMask;
      if ((host == 0 && !header_.has_data_file()) || g_.in_cluster(host)) continue;
      if (header_.has_data_file()) {
        if (host == 0 && !(e & kCopied)) continue;
        if (e & kCopied) continue;  // always the active image's alone
      }
      uint64_t n = header_.has_data_file() ? 1 : TRY(stored(host >> g_.cluster_bits));
      if ((n == 1) == ((e & kCopied) != 0)) continue;
      say_(text("%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64, word, e, n));
      count_fix();
      store(p, n == 1 ? e | kCopied : e & ~kCopied);
      changed = true;
    }
    if (changed && fix) TRY_VOID(file_.write(l2, table));
  }
  return fix ? file_.flush() : Result<>{};
}

// A repaired image is neither dirty nor corrupt any more.
Result<> Checker::finish() {
  if (repair_ == Repair::kNone || result_.errors || result_.corruptions) return {};
  uint64_t now = header_.incompatible & ~(incompatible::kDirty | incompatible::kCorrupt), known = header_.autoclear & autoclear::kKnown;
  if ((now == header_.incompatible && known == header_.autoclear) || header_.version < 3) return {};
  std::byte bits[8];
  store(bits, now);
  TRY_VOID(file_.write(at::kIncompatible, bits));
  store(bits, known);  // whoever writes without knowing a feature says so
  TRY_VOID(file_.write(at::kAutoclear, bits));
  return file_.flush();
}

// Their list first: what is dropped from it must be known before anything is counted.
Result<> Checker::read_snapshots() {
  SnapshotRepair work{.say = say_};
  const bool fix = repair_ == Repair::kAll;
  if (header_.snapshot_count > kMaxSnapshots && !fix)
    return fail(ErrorKind::kCorrupt, "ERROR snapshot table too large\nYou can force-remove all " + std::to_string(header_.snapshot_count - kMaxSnapshots) +
                " overhanging snapshots with qemu-img check -r all", EFBIG);
  auto table = read_snapshot_table(file_, header_, fix ? &work : nullptr);
  if (!table) return std::unexpected(Error{table.error().kind, "ERROR failed to read the snapshot table: " + table.error().message, table.error().code});
  snapshots_ = std::move(*table);
  result_.snapshots_to_renew = work.cut;
  if (work.removed) {
    header_.snapshot_count = static_cast<uint32_t>(snapshots_.snapshots.size());
    std::byte count[4];
    store(count, header_.snapshot_count);
    TRY_VOID(file_.write(at::kSnapshotCount, count));
    TRY_VOID(file_.flush());
    removed_snapshots_ = work.removed;
  }
  if (header_.version < 3) return {};
  for (size_t i = 0; i < snapshots_.snapshots.size(); ++i)
    if (snapshots_.snapshots[i].extra_size < 16) {
      say_(std::string(fix ? "Repairing" : "ERROR") + " snapshot table entry " + std::to_string(i) + " is incomplete");
      ++result_.snapshots_to_renew;
    }
  return {};
}

Result<CheckResult> Checker::run() {
  header_ = TRY(Header::read(file_, true));
  g_ = header_.geometry;
  file_size_ = file_.size();
  file_end_ = round_up(file_size_, g_.cluster_size());
  TRY_VOID(read_snapshots());
  const uint64_t renew = std::exchange(result_.snapshots_to_renew, 0);
  result_.total_clusters = divide_up(header_.size, g_.cluster_size());
  TRY_VOID(count_all(repair_));
  const CheckResult counted = result_;
  TRY_VOID(compare(Repair::kNone));
  if (needs_rebuild_ && repair_ == Repair::kAll) {
    TRY_VOID(rebuild());
  } else if (needs_rebuild_ && repair_ != Repair::kNone) {
    // Leaks cannot be told from what was given out twice.
    say_("ERROR need to rebuild refcount structures");
    ++result_.errors;
  } else if (repair_ != Repair::kNone && (result_.leaks || result_.corruptions)) {
    result_ = counted;
    TRY_VOID(compare(repair_));
    TRY_VOID(write_blocks());
  }
  TRY_VOID(check_copied());
  result_.corruptions_fixed += removed_snapshots_;
  TRY_VOID(finish());
  result_.corruptions += renew;
  result_.snapshots_to_renew = renew;
  return result_;
}

Result<CheckResult> check(File& file, Repair repair, const Say& say) { return Checker(file, repair, say).run(); }

Result<> renew_snapshots(std::unique_ptr<File> file, std::unique_ptr<File> data_file, CheckResult& result) {
  SnapshotRepair quiet{.say = [](const std::string&) {}};
  OpenConfig config{.allow_corrupt = true, .allow_dirty = true, .secret = {}, .snapshots = &quiet, .no_data = true};
  auto image = TRY(Qcow2::open(std::move(file), std::move(data_file), config));
  TRY_VOID(image->renew_snapshot_table());
  TRY_VOID(image->close());
  result.corruptions -= result.snapshots_to_renew;
  result.corruptions_fixed += std::exchange(result.snapshots_to_renew, 0);
  return {};
}

}  // namespace vireo::storage::qcow2
