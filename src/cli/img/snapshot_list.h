// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "storage/qcow2/qcow2.h"

namespace vireo::cli::img {

// The table of internal snapshots that `info` and `snapshot -l` print; nothing when there are none.
void print_snapshots(const storage::qcow2::Qcow2& image);

}  // namespace vireo::cli::img
