// SPDX-License-Identifier: Apache-2.0
// What softkvm counts. Each struct is a page of its own, which abi/ maps from the file that KVM_GET_STATS_FD gives: who reads that file sees
// the counts as they are, also while KVM_RUN is running. Plain increments, on slow paths only; translated code counts nothing.
// abi/stats.cpp has the names and units that user space sees; docs/guide/stat.md says what each means.
#pragma once

#include <cstdint>

namespace vireo::softkvm {

// Written by the thread that runs the vCPU.
struct alignas(4096) VcpuCounters {
  // KVM_RUN's returns, and what it has dealt with itself
  uint64_t exits, io_exits, mmio_exits, irq_window_exits, signal_exits, other_exits;
  uint64_t doorbells;  // device writes that rang an ioeventfd or a direct call
  uint64_t halt_exits, halt_wait_ns;
  uint64_t running, blocking;  // now: 0 or 1
  // events that the guest was given
  uint64_t irq_injections, nmi_injections, exceptions, pf_guest, hypercalls;
  // translation
  uint64_t blocks_translated, insns_translated, code_bytes_translated;
  uint64_t blocks_restored;  // ... and blocks that were found in a file of translated code
  uint64_t lookups, call_outs, leaves, steps, code_writes;
  uint64_t code_doubts, code_compares;  // where host code may have overwritten code unseen; comparisons of a page for that
  // memory
  uint64_t tlb_misses, tlb_fills, tlb_flush, invlpg;
  // user code on the bare CPU (native/); cycles of the host's TSC
  struct Native {
    uint64_t runs, system_calls, faults, mapped, left, spaces, time_stamps;
    uint64_t all_ticks, run_ticks;  // in all, in stubs
  } native;
};

// Written under the code cache's mutex, or as told.
struct alignas(4096) VmCounters {
  uint64_t vcpus;         // under the VM's mutex
  uint64_t memory_slots;  // while slots are set
  uint64_t remote_tlb_flush;  // by several threads: atomically
  uint64_t code_cache_size, code_cache_used, code_cache_blocks;
  uint64_t code_cache_flushes;  // it was full: all blocks went
  uint64_t code_pages_invalidated, code_blocks_invalidated;
  uint64_t code_blocks_stored;  // in the file of translated code, as far as it was read
};

}  // namespace vireo::softkvm
