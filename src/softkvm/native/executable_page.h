// SPDX-License-Identifier: Apache-2.0
// Which code may run on the bare CPU: pages without instructions that give there, unnoticed, what belongs to the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vireo::softkvm {

// True: the bytes hold no CPUID, RDPID, LSL or LAR of a register, SYSENTER, RDPRU or hypercall. Their bytes inside of another instruction do not
// count: decoded from any of sixteen places before, no instruction begins there. Code that jumps into the middle of an instruction
// of its own to run one of them is not seen through; it would find the host's answer and nothing else. What begins in the last bytes and goes on
// behind them is a matter of the seam. RDTSC and RDTSCP need not be looked for: they fault in a stub (PR_TSC_SIGSEGV); nor SGDT and its like,
// which are the same there as in a guest with UMIP that runs the host's kernel.
bool runs_natively(std::span<const uint8_t> bytes);

// The same for what begins on one page and ends on the next one: both pages whole.
bool seam_runs_natively(const uint8_t* page, const uint8_t* next);

}  // namespace vireo::softkvm
