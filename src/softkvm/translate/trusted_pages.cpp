// SPDX-License-Identifier: Apache-2.0
// The comparison of code with what it was made from, as settle_doubt() of dispatch.cpp does it, where ordinary C++ may run: by memcmp.
#include <bit>
#include <cstring>

#include "softkvm/mmu/slots.h"
#include "softkvm/translate/block.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/switches.h"

namespace vireo::softkvm {
namespace {

constexpr unsigned kPiece = 64;  // bytes that a bit of PageSource::used stands for

bool same(const PageSource& source, const uint8_t* page) {
  uint64_t bits = source.used.load(std::memory_order_acquire) & source.chunks.load(std::memory_order_acquire);
  while (bits) {
    const auto first = static_cast<unsigned>(std::countr_zero(bits)), count = static_cast<unsigned>(std::countr_one(bits >> first));
    if (std::memcmp(source.bytes + first * kPiece, page + first * kPiece, count * kPiece) != 0) return false;
    bits = first + count < 64 ? bits >> (first + count) << (first + count) : 0;
  }
  return true;
}

bool all_same(Vcpu& vcpu) {
  const Engine& engine = engine_of(vcpu);
  const uint64_t now = vcpu.vm->unseen_epoch.load();
  for (unsigned i = 0; i < engine.trusted.count; i++) {
    const TrustedPages::Page& trusted = engine.trusted.pages[i];
    if (trusted.source->checked.load(std::memory_order_acquire) >= engine.unseen_epoch) continue;
    const uint8_t* page = vcpu.vm->slots->host(trusted.gpa);
    if (!page || !same(*trusted.source, page)) return false;
    trusted.source->checked.store(now, std::memory_order_release);
  }
  return true;
}

}  // namespace

void settle_doubt_ahead(Vcpu& vcpu) {
  Engine& engine = engine_of(vcpu);
  if (!engine.doubted) return;
  engine.running.store(1);  // what frees the sources and the slots waits for that, or is seen here
  if (!engine.requests.load()) {
    engine.doubted = false;
    if (vcpu.vm->off & kSwitchTrustedPages || !engine.trusted.worth_a_look() || !all_same(vcpu)) flush_all_jump_caches(vcpu);
  }
  engine.running.store(0, std::memory_order_release);
}

}  // namespace vireo::softkvm
