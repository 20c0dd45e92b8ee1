// SPDX-License-Identifier: Apache-2.0
// What translated code depends on besides the guest's bytes and mode: the very program or library that makes it, the host's CPU, the guest's CPUID as
// far as it decides what is emitted, and the switches. Files of translated code are named by it.
#pragma once

#include <optional>

#include "softkvm/cpu/vcpu_state.h"
#include "softkvm/translate/code_file.h"

namespace vireo::softkvm {

// Nothing where this program has no build ID (ld --build-id).
std::optional<CodeKey> engine_key(const VcpuState& vcpu, uint32_t off);

}  // namespace vireo::softkvm
