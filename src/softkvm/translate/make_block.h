// SPDX-License-Identifier: Apache-2.0
// Making the block at a linear address, and linking the jump that asked for it. FAST: where nothing has to be waited for it is done between two
// instructions of the guest, with its SIMD state live; the slow half does what needs waiting and asks again.
#pragma once

#include <cstdint>

#include "softkvm/translate/block.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {

enum class Made : uint8_t {
  kYes,
  kNoMemory,    // a fetch from no slot
  kFault,       // vcpu.fault
  kBusy,        // the code cache is locked
  kFull,        // the code cache has to be flushed
  kWatch,       // MakeBlock::page: other vCPUs may have write tags for it, which wait_for_writers() sees to
  kNeedSource,  // MakeBlock::page: CodeCache::make_source() is due
};

struct MakeBlock {
  uint64_t linear;
  uint32_t mode;
  const void* site = nullptr;  // the rel32 of the jump to link; executable address
  uint64_t generation = 0;     // of the code cache when the site was noted
  bool at_site = false;        // the vCPU runs the jump at the moment: its page is mapped where it was translated from
  uint64_t gpa = ~0ull;        // where `linear` leads by a translation that the vCPU may use; ~0: by a walk
  Block* block = nullptr;      // what came out
  uint64_t page = 0;           // see Made
};

// With `wait`, waits for the code cache's lock.
Made make_block(Vcpu& vcpu, MakeBlock& what, bool wait);

// Drops the blocks made from a part of a page of `slot`, wherever in guest physical memory it appears. With the code cache's lock held.
void drop_blocks(Vm& vm, const struct Slot& slot, uint64_t gpa, uint64_t size);

}  // namespace vireo::softkvm
