// SPDX-License-Identifier: Apache-2.0
// Which code may run on the bare CPU: pages without instructions that give there, unnoticed, what belongs to the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vireo::softkvm {

// What RDTSC and RDTSCP do there.
enum class TimeStamps : uint8_t {
  kFault,  // PR_TSC_SIGSEGV: they fit
  kRun,    // they give the host's time stamps, which are the guest's too: RDTSCP does not fit unless nobody looks at the CPU number that it gives
  kUnfit,  // the host's time stamps, which are not the guest's: neither fits
};

// Where the next instruction stands that does not fit (its byte 0F), from `from` on; bytes.size() if there is none.
size_t next_unfit(std::span<const uint8_t> bytes, size_t from, TimeStamps time_stamps = TimeStamps::kFault);

// True: the bytes hold no CPUID, RDPID, LSL or LAR of a register, SYSENTER, RDPRU or hypercall, nor WRFSBASE and WRGSBASE where host_keeps_segment_bases()
// is false, nor, where components_of_the_host_alone(), what tells of those. Their bytes inside of another instruction do not
// count: decoded from any of sixteen places before, no instruction begins there. Code that jumps into the middle of an instruction
// of its own to run one of them is not seen through; it would find the host's answer and nothing else. What begins in the last bytes and goes on
// behind them is a matter of the seam. SGDT and its like need not be looked for, since they are the same there as in a guest with UMIP that runs
// the host's kernel.
inline bool runs_natively(std::span<const uint8_t> bytes, TimeStamps time_stamps = TimeStamps::kFault) { return next_unfit(bytes, 0, time_stamps) == bytes.size(); }
// Makes each of them raise #UD, with what follows where it was.
void make_unfit_trap(std::span<uint8_t> bytes, TimeStamps time_stamps = TimeStamps::kFault);

// The same for what begins on one page and ends on the next one: both pages whole.
bool seam_runs_natively(const uint8_t* page, const uint8_t* next, TimeStamps time_stamps = TimeStamps::kFault);

}  // namespace vireo::softkvm
