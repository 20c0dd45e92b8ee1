// SPDX-License-Identifier: Apache-2.0
// Which code may run on the bare CPU: pages without instructions that give there, unnoticed, what belongs to the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vireo::softkvm {

// True: nowhere in the bytes could CPUID, RDPID, LSL or LAR of a register, SYSENTER, RDPRU or a hypercall start, wherever instructions begin.
// What begins in the last bytes and goes on behind them is a matter of the seam. RDTSC and RDTSCP need not be looked for: they fault in a
// stub (PR_TSC_SIGSEGV); nor SGDT and its like, which are the same there as in a guest with UMIP that runs the host's kernel.
bool runs_natively(std::span<const uint8_t> bytes);

// The same for what begins on one page and ends on the next one: both pages whole.
bool seam_runs_natively(const uint8_t* page, const uint8_t* next);

}  // namespace vireo::softkvm
