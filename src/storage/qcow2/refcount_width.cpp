// SPDX-License-Identifier: Apache-2.0
// Another width of the reference counts: a second structure is made beside the first one, and one write of the header's first sector
// takes it into use. A power cut before leaves the old one, one after it the new one, and leaks at worst.
#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {

// Room for the new structure, taken from the old one: what is taken must be counted as well, so that this is repeated until nothing more is
// needed. Each time is a "walk".
Result<Qcow2::NewRefcounts> Qcow2::plan_refcounts(const Geometry& wanted, const Steps& tell) {
  const uint64_t per_old = geometry_.refblock_entries(), per = wanted.refblock_entries();
  NewRefcounts out;
  uint64_t walk = 0;
  bool only_look = true;  // before anything is taken
  for (bool more = true; more; walk += !std::exchange(only_look, false)) {
    if (walk && out.walks < walk + 2) out.walks = walk + 2;
    tell(walk, out.walks);
    more = only_look;
    std::lock_guard lock(mutex_);
    for (uint64_t i = 0; i < refcounts_->table().size(); ++i) {
      if (!(refcounts_->table()[i] & kReftableMask)) continue;
      for (uint64_t c = i * per_old; c < (i + 1) * per_old; ++c) {
        const uint64_t count = TRY(refcounts_->get(c));
        if (only_look && count > wanted.refcount_max()) {
          char text[160];
          snprintf(text, sizeof text, "Cannot decrease refcount entry width to %u bits: Cluster at offset %#" PRIx64 " has a refcount of %" PRIu64,
                   wanted.refcount_bits(), c << geometry_.cluster_bits, count);
          return fail(ErrorKind::kInvalid, text, EINVAL);
        }
        if (only_look || !count || out.blocks.contains(c / per)) continue;
        out.blocks[c / per] = TRY(refcounts_->allocate_cluster());
        more = true;
      }
    }
    if (only_look) continue;
    const uint64_t clusters = divide_up((out.blocks.rbegin()->first + 1) * 8, cluster_size());
    if (clusters * cluster_size() > kMaxReftableBytes) return fail(ErrorKind::kInvalid, "the refcount table would become too large", EFBIG);
    if (clusters > out.table_clusters) {
      for (uint64_t i = 0; i < out.table_clusters; ++i) TRY(refcounts_->subtract((out.table >> geometry_.cluster_bits) + i));
      out.table = (TRY(refcounts_->allocate(clusters, clusters))).cluster << geometry_.cluster_bits;
      out.table_clusters = clusters;
      more = true;
    }
    tell(walk + 1, out.walks);
    l2_->trim();
  }
  return out;
}

Result<> Qcow2::change_refcount_width(unsigned order, const Steps& tell) {
  if (order == geometry_.refcount_order) return {};
  TRY_VOID(quiesce());
  TRY_VOID(commit(true));  // what the first one freed
  Geometry wanted = geometry_;
  wanted.refcount_order = order;
  const NewRefcounts made = TRY(plan_refcounts(wanted, tell));
  std::vector<std::byte> table(made.table_clusters * cluster_size());
  std::vector<uint64_t> old;
  {
    std::lock_guard lock(mutex_);
    for (auto& [index, offset] : made.blocks) {
      std::vector<std::byte> block(cluster_size());
      for (uint64_t k = 0; k < wanted.refblock_entries(); ++k)
        if (uint64_t n = TRY(refcounts_->get(index * wanted.refblock_entries() + k))) set_refcount(block.data(), order, k, n);
      TRY_VOID(file_->write(offset, block));
      store(&table[index * 8], offset);
    }
    for (uint64_t entry : refcounts_->table())
      if (entry & kReftableMask) old.push_back(entry & kReftableMask);
    for (uint64_t i = 0; i < header_.reftable_clusters; ++i) old.push_back(header_.reftable_offset + i * cluster_size());
  }
  TRY_VOID(file_->write(made.table, table));
  Header header = header_;
  header.geometry.refcount_order = order;
  header.reftable_offset = made.table;
  header.reftable_clusters = static_cast<uint32_t>(made.table_clusters);
  TRY_VOID(rewrite_header(header));
  {
    std::lock_guard lock(mutex_);
    geometry_ = header_.geometry;
    for (uint64_t offset : old) own(offset, 1, Owner::kNone);
    refcounts_ = std::make_unique<Refcounts>(*file_, header_, std::max(config_.refcount_cache, 8 * cluster_size()));
    TRY_VOID(connect_refcounts());
    for (uint64_t offset : old) pending_.push_back({offset >> geometry_.cluster_bits, 1, true});
  }
  TRY_VOID(commit(true));
  TRY_VOID(commit(true));
  tell(made.walks, made.walks);
  return {};
}

}  // namespace vireo::storage::qcow2
