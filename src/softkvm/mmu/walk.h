// SPDX-License-Identifier: Apache-2.0
// The page walker: linear to guest physical with every right checked and accessed/dirty bits set.
// Spec: Intel SDM vol 3, chapter 4.
#pragma once

#include "softkvm/cpu/vcpu_state.h"
#include "softkvm/mmu/slots.h"

namespace vireo::softkvm {

enum class Want : uint8_t { kRead, kWrite, kFetch };

constexpr uint64_t kEntryGlobal = 1u << 8;  // G, in an entry that maps a page

struct PageTranslation {
  uint64_t gpa = 0;
  bool global = false;    // the entry outlives a change of address space (G with CR4.PGE; always so without paging)
  bool writable = false;  // a write would be allowed now and the dirty bit is set: a write tag may be filled
  uint8_t shift = 12;     // of the page's size
};

// The entries a walk in long mode went through, for who keeps a translation outside of the TLB and has to see whether it still holds.
struct WalkPath {
  static constexpr unsigned kLevels = 5;
  const uint64_t* at[kLevels + 1] = {};  // by level: 1 is the page table's. Null: not gone through (a larger page), or no RAM
  uint64_t value[kLevels + 1] = {};      // as found, or with A and D as this walk has set them
  unsigned top = 0;                      // the level that CR3 names: 4 or 5
  unsigned leaf = 0;                     // the level that maps the page
};

// `user`: with user rights; `ac`: supervisor may touch user pages although SMAP is on. kNext, or kFault with #PF (or for non-canonical
// addresses #GP, #SS when `stack`) in vcpu.fault.
Outcome walk(VcpuState& vcpu, uint64_t linear, Want want, bool user, bool ac, bool stack, PageTranslation& out,
             WalkPath* path = nullptr);

// As walk() with entries of eight bytes, for who asks whether what he keeps would be found again: it sets nothing and raises nothing. Page tables that it
// has found are not looked for again, so an object is for one moment.
struct PageRights {
  bool writable = true, user = true, executable = true;
};
class Peek {
 public:
  explicit Peek(VcpuState& vcpu) : vcpu_(vcpu) {}
  // False: a walk would fault or set A, or the rights hang on a key. `out.global` is G, whatever CR4.PGE is.
  bool at(uint64_t linear, Want want, bool user, bool ac, PageTranslation& out);

 private:
  struct Table {
    uint64_t part = ~0ull;  // of the linear addresses, that it is for
    const uint8_t* entries = nullptr;
    PageRights rights;  // of the entries on the way
  };
  static constexpr unsigned kTables = 8;

  VcpuState& vcpu_;
  Table tables_[2][kTables];  // page tables, page directories
};

}  // namespace vireo::softkvm
