// SPDX-License-Identifier: Apache-2.0
// The program of a stub process: an ELF file of one page, held in a memfd.
#pragma once

#include <cstdint>

#include "base/owned_fd.h"
#include "base/result.h"

namespace vireo::softkvm {

// A descriptor fit for execveat(), made once. Spec: System V ABI, ELF header and program header.
Result<int> stub_image();

// Addresses in it. Those of system calls are of what follows SYSCALL, as the kernel names them.
struct StubPlaces {
  uint32_t list_call, on_call, stop_call;
  uint32_t handler;
  uint32_t restore;  // from here on the list is done
  uint32_t trap;
};
const StubPlaces& stub_places();

}  // namespace vireo::softkvm
