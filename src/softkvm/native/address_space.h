// SPDX-License-Identifier: Apache-2.0
// One guest address space as it is mapped in a stub process: a TLB made of mappings. An entry is made as a TLB's is, by a walk that sets A and D and
// checks every right; it is writable only where a write tag could be filled (mmu/access.cpp), and executable only where the code may run
// on the bare CPU. Like a TLB it may keep what the guest has changed until the guest flushes: then, before any of its code runs again,
// revalidate() compares the entries of all page tables that it came by with what they were, and unmaps what differs.
// Of the vCPU's own thread. Only while Engine::running is set, or with the stub stopped: who wants the vCPU at a safe point waits for it.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "softkvm/mmu/lent_memory.h"
#include "softkvm/mmu/walk.h"
#include "softkvm/native/executable_page.h"
#include "softkvm/native/stub_process.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {

class AddressSpace {
 public:
  // Null where the host cannot make a stub process; `why` says it then.
  // `time_stamps`: RDTSC runs there, for a guest whose TSC is the host's.
  static std::unique_ptr<AddressSpace> create(Vm& vm, bool time_stamps, std::string& why);

  StubProcess& stub() { return *stub_; }

  // After the guest has flushed its TLB or loaded CR3 with this space's.
  // False: hardly anything was left, so that it is another process that has got the same page for its tables.
  bool revalidate();
  // After write tags were dropped: pages that hold translated code, or whose writes are logged, become read-only.
  void recheck_writes(const VcpuState& vcpu);

  // Unmaps the page of `linear`, which the guest's kernel has been told a page fault of.
  void drop(uint64_t linear);

  enum class Outcome {
    kMapped,
    kFault,    // the guest's tables refuse it: vcpu.fault
    kRefused,  // it has to be done by translation: device memory, memory that is not lent, code that may not run natively ...
  };
  // Is the page of `linear` mapped for such an access?
  bool has(uint64_t linear, Want want) const;
  // Maps the page of `linear` for an access of the guest's user code, and those around it that the guest has in use.
  Outcome map(VcpuState& vcpu, uint64_t linear, Want want);
  // The stub is of no use any more. What the above have put on its list it does before it runs.
  bool broken() const { return broken_; }

  // Own copies of the guest's code (see Shadow) that the guest has changed since are unmapped. Before each run.
  void recheck_shadows();

  bool runs_time_stamps() const { return time_stamps_ == TimeStamps::kRun; }

  // What Native keeps with it.
  uint64_t cr3 = 0, flushes_seen = 0, write_flushes_seen = 0, generation = 0, last_used = 0;

 private:
  // 2 MiB of linear addresses: one page table, or one large page.
  struct Region {
    WalkPath path;          // from level 4 to the level above the pages (1 or, of a large page, 2, included)
    bool large;
    uint64_t entry[512];    // as they were when their pages were mapped
    uint64_t mapped[8] = {}, writable[8] = {}, executable[8] = {};
  };
  struct Wish {
    uint8_t protection = 0;      // PROT_*; 0: nothing to be done
    bool may_fetch = false;      // the guest's tables let its code run
    uint8_t file = 0;
    uint64_t offset = 0;
    const uint8_t* host = nullptr;
  };

  // A page of code that may not run natively but is wanted often, as copied into the stub with the instructions that do not fit made to trap.
  // Data reads of the page see the copy: a program that looks at those very bytes of code it has run finds UD2.
  struct Shadow {
    uint64_t linear;
    const uint8_t* host;
    uint8_t source[4096];
  };
  static constexpr unsigned kRefusalsBeforeShadow = 8;
  // A guest chooses how much is kept of it: bounds, behind which it is begun anew.
  static constexpr size_t kMostRegions = 2048, kMostRefusals = 4096;

  AddressSpace() = default;
  bool shadow(Region& region, uint64_t region_linear, unsigned page, uint64_t entry, const uint8_t* host);
  bool shadow_at(uint64_t linear) const;
  void call(const StubProcess::Call& c);
  bool in_line(const Region& region) const;
  Region* region_at(uint64_t linear, const WalkPath& path);
  void unmap(uint64_t linear, uint64_t size);
  void unmap_page(Region& region, uint64_t region_linear, unsigned page);
  Wish wish(VcpuState& vcpu, Region& region, uint64_t region_linear, unsigned page, uint64_t entry, Want want, bool asked);
  bool may_execute(uint64_t linear, const uint8_t* host) const;
  bool seams_run_natively(uint64_t linear, const uint8_t* host) const;
  const uint8_t* executable_host(uint64_t linear) const;

  Vm* vm_ = nullptr;
  std::unique_ptr<StubProcess> stub_;
  std::vector<LentMemory::Range> ranges_;
  std::unordered_map<uint64_t, std::unique_ptr<Region>> regions_;  // by linear address over 2 MiB
  std::unordered_map<uint64_t, unsigned> refusals_;                // by page: how often its code was wanted in vain
  std::unique_ptr<Shadow> shadows_[StubProcess::kOwnPages];
  unsigned mappings_ = 0;
  TimeStamps time_stamps_ = TimeStamps::kFault;
  bool broken_ = false;
};

}  // namespace vireo::softkvm
