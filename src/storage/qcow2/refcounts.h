// SPDX-License-Identifier: Apache-2.0
// How often each cluster of the file is used, and giving out free ones. Spec: "Host cluster management".
// Increments act at once in memory. Decrements must be held back by the caller until what dropped the reference is on
// stable storage (see Commit in qcow2.h). The owner's lock guards all.
#pragma once

#include <functional>
#include <unordered_set>

#include "storage/qcow2/header.h"
#include "storage/qcow2/table_cache.h"

namespace vireo::storage::qcow2 {

class Refcounts {
 public:
  Refcounts(File& file, Header& header, uint64_t cache_bytes)
      : file_(file), header_(header), geometry_(header.geometry), blocks_(file, geometry_.cluster_size(), cache_bytes) {}
  Result<> load();

  Result<uint64_t> get(uint64_t cluster);
  Result<> add(uint64_t cluster, uint64_t by = 1);       // kBusy when the width does not hold it
  Result<uint64_t> subtract(uint64_t cluster, uint64_t by = 1);  // what is left
  // The same step on clusters in a row; on failure those before stay changed, and `done` says how many.
  Result<> change_row(uint64_t cluster, uint64_t count, int by, uint64_t& done);
  // First fit. `wanted` clusters in a row with a refcount of 1 each; with `least` smaller, a shorter row will do.
  struct Run {
    uint64_t cluster = 0, count = 0;
  };
  Result<Run> allocate(uint64_t wanted, uint64_t least);
  Result<uint64_t> allocate_cluster() { return (TRY(allocate(1, 1))).cluster << geometry_.cluster_bits; }
  // Exactly these clusters, if they are free; how many of them from the first on.
  Result<uint64_t> allocate_at(uint64_t cluster, uint64_t count);

  // Clusters that nobody references but that must not be given out yet.
  void quarantine(uint64_t cluster) { held_back_.insert(cluster); }
  void release(uint64_t cluster);

  TableCache& blocks() { return blocks_; }
  const std::vector<uint64_t>& table() const { return table_; }
  bool table_dirty() const { return dirty_to_ != 0; }
  TableWrite take_table();  // the changed entries
  void table_written(const TableWrite& write, bool ok);
  void set_search_start(uint64_t cluster) { free_from_ = cluster; }

  // Told of clusters that became or ceased to be metadata of this class.
  std::function<void(uint64_t cluster, bool is)> on_metadata;
  std::function<bool(uint64_t cluster)> is_metadata;
  // Told of clusters whose reference in the header is gone for good.
  std::function<void(uint64_t cluster)> on_free;
  // Told that nobody knows which table the header in the file names: nothing that relies on this one may become stable.
  std::function<void(int code)> on_doubt;

 private:
  Result<Table*> block_for(uint64_t cluster, bool create);
  Result<Table*> new_block(uint64_t index);
  Result<Run> allocate_long(uint64_t count);
  Result<> grow_table(uint64_t least_entries);
  Result<> write_blocks();
  void mark(uint64_t cluster, bool is) {
    if (on_metadata) on_metadata(cluster, is);
  }

  File& file_;
  Header& header_;
  const Geometry& geometry_;
  TableCache blocks_;
  std::vector<uint64_t> table_;
  uint64_t dirty_from_ = 0, dirty_to_ = 0;  // entries
  uint64_t free_from_ = 0;                  // no free cluster lies before
  std::unordered_set<uint64_t> held_back_;
};

}  // namespace vireo::storage::qcow2
