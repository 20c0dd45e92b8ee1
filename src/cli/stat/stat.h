// SPDX-License-Identifier: Apache-2.0
// `vireo stat`: counters of a running machine.
#pragma once

#include "base/result.h"

namespace vireo::cli::stat {

// The command line after "stat"; the exit status.
Result<int> run(int argc, char** argv);

}  // namespace vireo::cli::stat
