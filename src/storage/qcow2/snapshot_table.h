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
Result<SnapshotTable> read_snapshot_table(File& file, const Header& header);
std::vector<std::byte> serialize_snapshots(const std::vector<Snapshot>& list);

}  // namespace vireo::storage::qcow2
