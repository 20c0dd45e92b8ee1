// SPDX-License-Identifier: Apache-2.0
// RDTSCP also gives IA32_TSC_AUX, by which systems tell the CPU: on the bare CPU the host's. Does anybody look?
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vireo::softkvm {

// True: 64-bit code at bytes[at] (behind an RDTSCP) writes rCX before it reads it, on all paths that can be followed within the bytes, or returns to a
// caller, to whom rCX means nothing by the System V ABI. False where it is not known.
bool counter_dies(std::span<const uint8_t> bytes, size_t at);

}  // namespace vireo::softkvm
