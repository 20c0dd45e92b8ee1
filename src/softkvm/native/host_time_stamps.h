// SPDX-License-Identifier: Apache-2.0
// Whether the host can keep its time-stamp counter from user code.
#pragma once

namespace vireo::softkvm {

// RDTSC and RDTSCP fault where a process has asked for that (prctl(2), PR_SET_TSC). Some paravirtualized hosts take the wish and leave CR4.TSD as it is,
// so it is tried out, once, on the calling thread. Thread-safe.
bool host_traps_time_stamps();

}  // namespace vireo::softkvm
