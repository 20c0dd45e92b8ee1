// SPDX-License-Identifier: Apache-2.0
// `vireo run`: builds a machine from options and lives as long as it does.
#pragma once

#include "base/result.h"
#include "cli/options.h"

namespace vireo::cli {

// Returns the exit status.
Result<int> run(const RunOptions& options);

}  // namespace vireo::cli
