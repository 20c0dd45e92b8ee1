// SPDX-License-Identifier: Apache-2.0
#include "machine/board.h"

#include "machine/machine.h"
#include "machine/microvm.h"
#include "machine/q35.h"
#include "virtio/device.h"

namespace vireo {

Result<std::unique_ptr<Board>> Board::create(Machine& machine, CharBackend* serial) {
  if (machine.config().board == MachineConfig::BoardKind::kMicrovm) return TRY(Microvm::create(machine, serial));
  return TRY(Q35::create(machine, serial));
}

Result<> Board::add(std::unique_ptr<virtio::Device> device) { return add(std::move(device), {}); }

uint64_t Board::low_memory_limit(const MachineConfig& config) {
  return config.board == MachineConfig::BoardKind::kMicrovm ? Microvm::kLowMemoryLimit : Q35::kLowMemoryLimit;
}

}  // namespace vireo
