// SPDX-License-Identifier: Apache-2.0
// Counting all references in an image against its refcounts, and putting them right. It looks at the file alone, without
// the code that writes images, so that each is a test of the other. The words are those that scripts know from qemu-img.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "storage/file/file.h"

namespace vireo::storage::qcow2 {

enum class Repair { kNone, kLeaks, kAll };

struct CheckResult {
  uint64_t errors = 0;        // what could not be looked at
  uint64_t corruptions = 0, leaks = 0;
  uint64_t corruptions_fixed = 0, leaks_fixed = 0;
  uint64_t total_clusters = 0, allocated_clusters = 0, fragmented_clusters = 0, compressed_clusters = 0;
  uint64_t image_end = 0;
  uint64_t snapshots_to_renew = 0;  // entries of their list that renew_snapshots() is to put right
};

using Say = std::function<void(const std::string& line)>;

// With a repair the file must be writable and nobody else use it.
Result<CheckResult> check(File& file, Repair repair, const Say& say);
// The last step of a repair, by the code that writes images: the list of snapshots in its full form.
Result<> renew_snapshots(std::unique_ptr<File> file, std::unique_ptr<File> data_file, CheckResult& result);

}  // namespace vireo::storage::qcow2
