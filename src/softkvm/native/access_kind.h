// SPDX-License-Identifier: Apache-2.0
// What an instruction wanted of an address that it faulted at. The host tells a tracer the address of a page fault and not its error code.
#pragma once

#include <sys/user.h>

#include <cstdint>
#include <optional>
#include <span>

#include "softkvm/mmu/walk.h"

namespace vireo::softkvm {

// Of 64-bit code. Nothing where it cannot be told from the registers: the instruction has several addresses of which more than one fits, or none.
std::optional<Want> access_kind(std::span<const uint8_t> code, const user_regs_struct& registers, uint64_t address);

}  // namespace vireo::softkvm
