// SPDX-License-Identifier: Apache-2.0
// FAST.
#include "softkvm/translate/jump_cache.h"

#include "softkvm/mmu/host_pages.h"
#include "softkvm/translate/code_cache.h"

namespace vireo::softkvm {
void enter_jump(VcpuState& vcpu, unsigned view, uint64_t linear, const Block& block, const void* code) {
  Engine& engine = engine_of(vcpu);
  const unsigned index = jump_index(linear);
  engine.jump_pages[view].note(linear);
  if (block.straddle) {
    const uint64_t reached = linear + kMaxInsnLength;
    engine.jump_pages[view].note_reached(vcpu.in_64bit() ? reached : reached & 0xffffffff);
  }
  engine.jump[view][index] = {linear, code};
  if (block.source) {
    engine.jump_source[view][index] = {block.straddle ? nullptr : block.source, block.source->number, vcpu.vm->code->number_of(block)};
    engine.jump_sure[view].add(index);
  }
  const bool global = engine.fetch[(linear >> 12) & (kFetchEntries - 1)].global && !block.straddle;
  (global ? engine.jump_log_global : engine.jump_log)[view].add(index);
  if (++engine.jump_fills[view] == kMuchUsed) get_pages(engine.jump[view], sizeof engine.jump[view]);
}

}  // namespace vireo::softkvm
