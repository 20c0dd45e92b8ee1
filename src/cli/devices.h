// SPDX-License-Identifier: Apache-2.0
// From options to the virtio devices of a machine.
#pragma once

#include "base/result.h"
#include "cli/options.h"
#include "storage/jobs/live_disk.h"
#include "virtio/console.h"

namespace vireo::cli {

// What the machine owns, and others need.
struct AddedDevices {
  virtio::Console* console = nullptr;
  std::vector<storage::LiveDisk*> disks;
};
// `console`: the host's end of a virtio console, or null for none.
Result<AddedDevices> add_devices(Machine& machine, const RunOptions& options, CharBackend* console);

}  // namespace vireo::cli
