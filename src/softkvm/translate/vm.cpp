// SPDX-License-Identifier: Apache-2.0
// The VM: memory slots, the code cache, and what brings all vCPUs to a safe point.
#include "softkvm/vm.h"

#include <sched.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "softkvm/mmu/slots.h"
#include "softkvm/translate/code_cache.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/host_faults.h"
#include "softkvm/translate/safe_point.h"

namespace vireo::softkvm {

constexpr size_t kCodeCacheBytes = 128u << 20;

Vm::Vm() = default;
Vm::~Vm() {
#ifdef VIREO_VERIFY_BLOCKS
  if (!getenv("VIREO_SOFTKVM_STATS") || !code) return;
  const CodeCache::Verified& v = code->verified();
  fprintf(stderr, "block verifier passed %llu blocks of %llu host instructions, %llu links\n", (unsigned long long)v.blocks,
          (unsigned long long)v.instructions, (unsigned long long)v.links);
#endif
}

std::unique_ptr<Vm> Vm::create() {
  std::unique_ptr<Vm> vm(new Vm);
  vm->slots = std::make_unique<Slots>();
  vm->code.reset(CodeCache::create(kCodeCacheBytes));
  if (!vm->code) return nullptr;
  install_host_fault_handlers();
  return vm;
}

void reach_safe_points(Vm& vm, uint32_t request, const Vcpu* except) {
  std::lock_guard lock(vm.vcpus_mutex);
  for (Vcpu* v : vm.vcpus) {
    if (v == except) continue;
    Engine& engine = engine_of(*v);
    engine.requests.fetch_or(request);
    __atomic_store_n(&v->attention, 1u, __ATOMIC_SEQ_CST);
  }
  for (Vcpu* v : vm.vcpus) {
    if (v == except) continue;
    Engine& engine = engine_of(*v);
    // Not running: it will see the request before it runs again.
    for (unsigned spins = 0; engine.running.load(); spins++) {
      if (!(engine.requests.load() & request)) break;
      if (spins > 64) sched_yield();
      else __builtin_ia32_pause();
    }
  }
}

int Vm::set_memory_region(const kvm_userspace_memory_region& region) {
  bool changed;
  int result = slots->set(region, changed);
  if (result || !changed) return result;
  {
    std::lock_guard lock(code->mutex);
    code->invalidate_all();
  }
  reach_safe_points(*this, kRequestFlushTlb | kRequestFlushCode, nullptr);
  slots->retire();
  return 0;
}

int Vm::get_dirty_log(uint32_t id, void* bitmap, bool clear) {
  const Slot* slot = slots->by_id(id);
  if (!slot || !slot->dirty) return -ENOENT;
  uint64_t words = (slot->size / kPageSize + 63) / 64;
  auto* out = static_cast<uint64_t*>(bitmap);
  for (uint64_t i = 0; i < words; i++) out[i] = clear ? slot->dirty[i].exchange(0) : slot->dirty[i].load();
  if (clear) reach_safe_points(*this, kRequestFlushTlb, nullptr);
  return 0;
}

int Vm::clear_dirty_log(uint32_t id, uint64_t first_page, uint32_t num_pages, const void* bitmap) {
  const Slot* slot = slots->by_id(id);
  if (!slot || !slot->dirty) return -ENOENT;
  uint64_t pages = slot->size / kPageSize;
  if (first_page & 63 || first_page > pages || num_pages > pages - first_page) return -EINVAL;
  if (num_pages & 63 && first_page + num_pages != pages) return -EINVAL;
  auto* in = static_cast<const uint64_t*>(bitmap);
  for (uint64_t i = 0; i < (num_pages + 63) / 64; i++) slot->dirty[first_page / 64 + i].fetch_and(~in[i]);
  reach_safe_points(*this, kRequestFlushTlb, nullptr);
  return 0;
}

void invalidate_code(Vm& vm, uint64_t gpa, uint64_t size) {
  while (size) {
    uint64_t n = std::min<uint64_t>(size, kPageSize - (gpa & 0xfff));
    if (const Slot* slot = vm.slots->find(gpa); slot && slot->code_of(gpa).load()) {
      std::lock_guard lock(vm.code->mutex);
      slot->code_of(gpa).store(vm.code->invalidate_page(gpa, n));
    }
    gpa += n, size -= n;
  }
}

void drop_jump_entries(Vm& vm) {
  // A block that is no longer valid may still be in jump caches: every vCPU drops its own before it goes on.
  reach_safe_points(vm, kRequestFlushCode, nullptr);
}

void Vm::notice_write(const void* host, size_t size) {
  const SlotTable& table = slots->table();
  auto* begin = static_cast<const uint8_t*>(host);
  bool hit = false;
  for (unsigned i = 0; i < table.count; i++) {
    const Slot& s = table.slots[i];
    if (begin + size <= s.host || begin >= s.host + s.size) continue;
    uint64_t from = begin > s.host ? begin - s.host : 0;
    uint64_t to = std::min<uint64_t>(s.size, begin + size - s.host);
    for (uint64_t page = from >> 12; page <= (to - 1) >> 12; page++) {
      s.mark_dirty(s.gpa + (page << 12));
      if (!s.code[page].load()) continue;
      uint64_t a = std::max(from, page << 12), b = std::min(to, (page + 1) << 12);
      invalidate_code(*this, s.gpa + a, b - a);
      hit = true;
    }
  }
  if (hit) drop_jump_entries(*this);
}

}  // namespace vireo::softkvm
