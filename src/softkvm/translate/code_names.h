// SPDX-License-Identifier: Apache-2.0
// Names of translated code for perf: by the guest's address and privilege, and the guest kernel's symbol where those are known. In
// /tmp/perf-PID.map (format: Linux, tools/perf/Documentation/jit-interface.txt; a place in the cache that is used again has two lines), in
// jit-PID.dump (jitdump.h), or both. One for the process, as perf sees it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "softkvm/softkvm.h"

namespace vireo::softkvm {

// Are blocks to be named? The first call looks into the environment too (VIREO_PERF_MAP, VIREO_JITDUMP=FOLDER, VIREO_GUEST_SYMBOLS=FILE), for
// programs that are not ours; name_code() of softkvm.h is the other way.
bool code_is_named();

// Notes one block, which can be read at `code`. From any thread.
void name_block(const void* code, size_t size, uint64_t linear, bool user);

}  // namespace vireo::softkvm
