// SPDX-License-Identifier: Apache-2.0
// vireo ctl: the person's end of a machine's control socket.
#pragma once

#include "base/result.h"

namespace vireo::cli::ctl {

// The words after "ctl"; the exit status.
Result<int> run(int argc, char** argv);

}  // namespace vireo::cli::ctl
