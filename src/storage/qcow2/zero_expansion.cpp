// SPDX-License-Identifier: Apache-2.0
// Version 2 has no word for a cluster of zeroes. Before an image becomes one, such clusters become data, or nothing where no backing file
// would show; in the snapshots' tables as well.
#include <unordered_set>

#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {

// One table; what it gets is used as often as the table itself.
Result<> Qcow2::expand_zeroes_in(uint64_t l2) {
  std::lock_guard lock(mutex_);
  const uint64_t users = TRY(refcounts_->get(l2 >> geometry_.cluster_bits)), size = cluster_size();
  for (uint64_t i = 0; i < geometry_.l2_entries(); ++i) {
    Table* table = TRY(l2_->load(l2));
    std::byte* p = table->bytes.get() + i * geometry_.l2_entry_size();
    auto word = load<uint64_t>(p);
    if (word & kCompressed || !(word & kZeroFlag)) continue;
    uint64_t host = word & kOffsetMask;
    if (host == 0 && !header_.has_backing) {
      word = 0;
    } else {
      if (header_.crypt != Crypt::kNone) return fail(ErrorKind::kUnsupported, "an encrypted image's zero clusters cannot become data", ENOTSUP);
      const bool fresh = host == 0;
      if (fresh) {
        host = TRY(refcounts_->allocate_cluster());
        if (users > 1) TRY_VOID(refcounts_->add(host >> geometry_.cluster_bits, users - 1));
        word = users == 1 ? kCopied : 0;
        high_water_ = std::max(high_water_, host + size);
      }
      TRY_VOID(check_overlap(host, size, "data"));
      if (file_->grows() && file_->size() < host + size) TRY_VOID(file_->truncate(host + size));
      TRY_VOID(file_->zero(host, size, false));
      word = host | (word & kCopied);
    }
    store(p, word);
    l2_->dirty(*table, i * geometry_.l2_entry_size(), 8);
  }
  return {};
}

Result<> Qcow2::expand_zero_clusters(const Steps& tell) {
  std::vector<std::vector<uint64_t>> trees{l1_};
  uint64_t all = l1_.size(), done = 0;
  for (const Snapshot& s : snapshots_) {
    trees.push_back(TRY(read_snapshot_l1(s)));
    all += trees.back().size();
  }
  return snapshot_work([&]() -> Result<> {
    std::unordered_set<uint64_t> seen;
    for (auto& tree : trees)
      for (uint64_t entry : tree) {
        const uint64_t l2 = entry & kOffsetMask;
        if (geometry_.in_cluster(l2)) return corrupt("L2 table offset " + std::to_string(l2) + " unaligned");
        if (l2 && seen.insert(l2).second) TRY_VOID(expand_zeroes_in(l2));
        tell(++done, all);
        TRY_VOID(commit_if_full());
      }
    return {};
  });
}

}  // namespace vireo::storage::qcow2
