// SPDX-License-Identifier: Apache-2.0
// From options to the virtio devices of a machine.
#pragma once

#include "base/result.h"
#include "cli/options.h"

namespace vireo::cli {

Result<> add_devices(Machine& machine, const RunOptions& options);

}  // namespace vireo::cli
