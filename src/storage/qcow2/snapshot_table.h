// SPDX-License-Identifier: Apache-2.0
// The list of internal snapshots as it lies in the file. Spec: "Snapshots". What later versions put into an entry's extra
// data is kept byte for byte.
#pragma once

#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {

struct SnapshotTable {
  std::vector<Snapshot> snapshots;
  uint64_t bytes = 0;
};
// What was left out of a list that could not be read as it is.
struct SnapshotRepair {
  std::function<void(const std::string&)> say;
  uint64_t removed = 0;  // entries at the end
  uint64_t cut = 0;      // entries with less extra data than they had
};
// An error's message may have a second line, about what can be done.
Result<SnapshotTable> read_snapshot_table(File& file, const Header& header, SnapshotRepair* repair = nullptr);
std::vector<std::byte> serialize_snapshots(const std::vector<Snapshot>& list);

}  // namespace vireo::storage::qcow2
