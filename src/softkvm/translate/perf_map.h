// SPDX-License-Identifier: Apache-2.0
// /tmp/perf-PID.map: names translated code for `perf report` by guest address and privilege. Written where the environment has
// VIREO_PERF_MAP. Format: Linux, tools/perf/Documentation/jit-interface.txt. A place in the cache that is used again has two lines.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vireo::softkvm {

// Notes one block. Callers hold the code cache's mutex.
void perf_map_add(const void* code, size_t size, uint64_t linear, bool user);

}  // namespace vireo::softkvm
