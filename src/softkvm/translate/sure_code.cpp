// SPDX-License-Identifier: Apache-2.0
// FAST.
#include "softkvm/translate/sure_code.h"

#include "softkvm/mmu/slots.h"
#include "softkvm/translate/code_cache.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/switches.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kFirstPiece = 1;  // of an instruction's second page it has at most 14 bytes

// Nobody is to be sure of other pieces: another vCPU may be about to publish a block that it has made of one of them before the doubt.
uint64_t comparable(const PageSource& source) {
  return source.used.load(std::memory_order_acquire) & source.chunks.load(std::memory_order_acquire);
}

uint64_t pieces_to_look_at(const VcpuState& vcpu, uint64_t pieces) { return vcpu.vm->off & kSwitchSettledDoubts ? ~0ull : pieces; }

}  // namespace

bool SureCode::to_be_settled(uint64_t links_by_others) {
  const bool linked = links_by_others != links_by_others_;
  links_by_others_ = links_by_others;
  constexpr uint32_t kWorth = 32;
  if (!measured_) {
    measured_ = true;
    const bool again = count_ >= kWorth && count_ >= before_ / 4;
    trust_ = !again ? trust_ / 2 : trust_ < kMostTrust ? trust_ + 1 : kMostTrust;
    left_ = count_ < kWorth ? 0 : (1u << trust_) - 1;
    stretch_ = count_;
  }
  if (!left_ || lost_ || linked || count_ > 2 * stretch_) return false;
  left_--;
  return true;
}

bool SureCode::all_as_it_was(VcpuState& vcpu) {
  engine_of(vcpu).counters.code_compares += count_;
  const Slots& slots = *vcpu.vm->slots;
  for (uint32_t i = 0; i < count_; i++) {
    const PageSource& source = *pages_[i].source;
    const uint8_t* page = slots.host(source.gpa);
    uint64_t& pieces = pieces_[pages_[i].number];
    pieces &= comparable(source);
    if (!page || !source.same(page, pieces)) return false;
  }
  return true;
}

void SureCode::clear() {
  for (uint32_t i = 0; i < count_; i++) pieces_[pages_[i].number] = 0;
  before_ = count_;
  count_ = 0;
  lost_ = false;
  measured_ = false;
}

namespace {

// Does the page still hold what `pieces` of its blocks' code were made from?
bool source_current(VcpuState& vcpu, PageSource& source, uint64_t pieces, bool fresh) {
  Engine& engine = engine_of(vcpu);
  pieces = pieces_to_look_at(vcpu, pieces);
  const uint64_t wanted = fresh ? ~0ull : engine.sure.missing(source.number, pieces);
  if (!wanted) return true;
  engine.counters.code_compares++;
  const uint8_t* page = vcpu.vm->slots->host(source.gpa);
  const uint64_t known = comparable(source);
  if (!page || !source.same(page, wanted & known)) return false;
  engine.sure.add(source, pieces & known);
  return true;
}

}  // namespace

bool code_current(VcpuState& vcpu, const JumpSource& from) {
  const uint64_t pieces = vcpu.vm->code->reach(from.block);
  return !engine_of(vcpu).sure.missing(from.page_number, pieces_to_look_at(vcpu, pieces)) || source_current(vcpu, *from.page, pieces, false);
}

bool code_current(VcpuState& vcpu, const Block& block, bool fresh) {
  return (!block.source || source_current(vcpu, *block.source, vcpu.vm->code->reach(block), fresh)) &&
         (!block.second_source || source_current(vcpu, *block.second_source, kFirstPiece, fresh));
}

void code_is_current(VcpuState& vcpu, const Block& block) {
  SureCode& sure = engine_of(vcpu).sure;
  if (block.source) sure.add(*block.source, vcpu.vm->code->reach(block) & comparable(*block.source));
  if (block.second_source) sure.add(*block.second_source, kFirstPiece & comparable(*block.second_source));
}

}  // namespace vireo::softkvm
