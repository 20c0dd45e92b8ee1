// SPDX-License-Identifier: Apache-2.0
// The program of a stub process: an ELF file of one page, held in a memfd.
#pragma once

#include <cstdint>

#include "base/owned_fd.h"
#include "base/result.h"

namespace vireo::softkvm {

// A descriptor fit for execveat(), made once. Spec: System V ABI, ELF header and program header.
Result<int> stub_image();
// Addresses in it: the loop over the list, its system call, and a list of nothing less one call's size (for a call by registers alone).
uint64_t stub_loop();
uint64_t stub_syscall();
uint64_t stub_nothing();

}  // namespace vireo::softkvm
