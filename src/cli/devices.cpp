// SPDX-License-Identifier: Apache-2.0
#include "cli/devices.h"

#include "machine/board.h"
#include "storage/raw.h"
#include "virtio/blk.h"

namespace vireo::cli {
namespace {

Result<> add_disk(Machine& machine, const DiskOptions& options) {
  if (!options.format.empty() && options.format != "raw")
    return fail(ErrorKind::kUnsupported, "format " + options.format + " is not known (raw is)");
  const std::string& cache = options.cache;
  storage::RawConfig raw{.path = options.path,
                         .read_only = options.readonly,
                         .direct = cache == "none" || cache == "directsync",
                         .no_flush = cache == "unsafe"};
  auto disk = TRY(storage::Raw::create(raw, machine.loop()));
  virtio::BlkConfig blk{.serial = options.serial,
                        .queues = static_cast<uint16_t>(options.queues),
                        .write_cache = cache != "writethrough" && cache != "directsync"};
  auto device = TRY(virtio::Blk::create(blk, {machine.loop()}, std::move(disk)));
  return machine.board().add(std::move(device));
}

}  // namespace

Result<> add_devices(Machine& machine, const RunOptions& options) {
  for (const DiskOptions& disk : options.disks)
    if (auto result = add_disk(machine, disk); !result) return std::unexpected(std::move(result).error().within("--disk " + disk.path));
  if (!options.nets.empty() || options.rng || options.virtio_console)
    return fail(ErrorKind::kUnsupported, "--net, --rng, --console: not in this build");
  return {};
}

}  // namespace vireo::cli
