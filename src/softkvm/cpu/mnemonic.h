// SPDX-License-Identifier: Apache-2.0
// Instruction names, as the manuals spell them. Filled by the decoder's tables.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

enum class Mnemonic : uint16_t { kInvalid = 0 };

}  // namespace vireo::softkvm
