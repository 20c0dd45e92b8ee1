// SPDX-License-Identifier: Apache-2.0
#include "machine/board.h"

#include "machine/machine.h"
#include "machine/microvm.h"

namespace vireo {

Result<std::unique_ptr<Board>> Board::create(Machine& machine, CharBackend* serial) {
  if (machine.config().board == MachineConfig::BoardKind::kMicrovm) return TRY(Microvm::create(machine, serial));
  return fail(ErrorKind::kUnsupported, "--board q35: not wired yet");
}

uint64_t Board::low_memory_limit(const MachineConfig& config) { return Microvm::kLowMemoryLimit; }

}  // namespace vireo
