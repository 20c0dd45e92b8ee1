// SPDX-License-Identifier: Apache-2.0
// One run over an image: counting, comparing, repairing. See check.h.
#pragma once

#include "storage/qcow2/check.h"
#include "storage/qcow2/header.h"
#include "storage/qcow2/qcow2.h"
#include "storage/qcow2/reference_count.h"
#include "storage/qcow2/snapshot_table.h"

namespace vireo::storage::qcow2 {

class Checker {
 public:
  Checker(File& file, Repair repair, const Say& say) : file_(file), repair_(repair), say_(say) {}
  Result<CheckResult> run();

 private:
  // count.cpp
  Result<> count_all(Repair fix);
  Result<> count_l1(uint64_t offset, uint64_t entries, bool active);
  Result<> count_l2(uint64_t offset, bool active, uint64_t& next_contiguous);
  Result<> count_bitmaps();
  Result<> count_refcount_data();
  void reference(uint64_t offset, uint64_t length);
  // compare.cpp
  Result<uint64_t> stored(uint64_t cluster);
  Result<std::vector<std::byte>*> block_of(uint64_t cluster);
  Result<> compare(Repair fix);
  Result<> read_snapshots();
  Result<> write_blocks();
  Result<> rebuild();
  Result<> check_copied();
  Result<> finish();
  bool in_file(uint64_t offset, uint64_t length) const { return offset < file_end_ && length <= file_end_ - offset; }
  void corruption(const std::string& line) {
    say_(line);
    ++result_.corruptions;
  }

  File& file_;
  Repair repair_;
  const Say& say_;
  Header header_;
  Geometry g_;
  SnapshotTable snapshots_;
  uint64_t file_size_ = 0;
  uint64_t file_end_ = 0;  // rounded up to a cluster
  CheckResult result_;
  Repair counting_ = Repair::kNone;  // what of the tables is put right while they are counted
  uint64_t removed_snapshots_ = 0;
  ReferenceCount references_;
  bool needs_rebuild_ = false;
  std::vector<uint64_t> reftable_;
  std::map<uint64_t, std::vector<std::byte>> blocks_;  // some of them, by index
  std::vector<uint64_t> changed_blocks_;
};

}  // namespace vireo::storage::qcow2
