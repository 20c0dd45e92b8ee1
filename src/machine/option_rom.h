// SPDX-License-Identifier: Apache-2.0
// An expansion card's ROM from a file: code for the machine's firmware. Spec: PCI Local Bus 3.0, 6.3.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace vireo {

// `what` names option and file in errors; `most` bytes are taken.
Result<std::vector<std::byte>> read_option_rom(const std::string& path, const std::string& what, uint64_t most);

}  // namespace vireo
