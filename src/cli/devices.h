// SPDX-License-Identifier: Apache-2.0
// From options to the virtio devices of a machine.
#pragma once

#include "base/result.h"
#include "cli/options.h"
#include "virtio/console.h"

namespace vireo::cli {

// `console`: the host's end of a virtio console, or null for none. Gives that console, or null; the machine owns it.
Result<virtio::Console*> add_devices(Machine& machine, const RunOptions& options, CharBackend* console);

}  // namespace vireo::cli
