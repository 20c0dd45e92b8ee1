// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace vireo::preload {

// The parts of the program's memory [begin, end), whole pages, that are present or swapped out. None: they are more than `most` bytes, or it is not known.
std::optional<std::vector<std::pair<uintptr_t, uintptr_t>>> used_pages(uintptr_t begin, uintptr_t end, size_t most);

}  // namespace vireo::preload
