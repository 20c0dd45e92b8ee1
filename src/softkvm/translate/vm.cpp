// SPDX-License-Identifier: Apache-2.0
// The VM: memory slots, the code cache, and what brings all vCPUs to a safe point.
#include "softkvm/vm.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/held_signals.h"
#include "softkvm/mmu/dirty_ring.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/native/native.h"
#include "softkvm/translate/code_cache.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/host_faults.h"
#include "softkvm/translate/make_block.h"
#include "softkvm/translate/safe_point.h"
#include "softkvm/translate/stored_code.h"
#include "softkvm/translate/switches.h"

namespace vireo::softkvm {

constexpr size_t kMostVcpus = 1024;
constexpr size_t kCodeCacheBytes = 256u << 20;  // what is not used takes no memory

namespace {
// All VMs of the process. Their memory may be one and the same. The mutex is held with signals held: read() of a program's handler asks for it.
std::mutex all_mutex;
HeldOverFork during_fork;
std::vector<Vm*>& all = *new std::vector<Vm*>;  // other threads may still read when the program ends
std::atomic<bool> unseen{false};
// All slots that there were lie between these. A program's every read() asks, also in signal handlers and in the child of a fork, where
// waiting for a lock may be for ever: most are answered by this.
std::atomic<uintptr_t> lowest{~uintptr_t{0}}, highest{0};

void widen(uintptr_t from, uintptr_t to) {
  for (uintptr_t now = lowest.load(); from < now && !lowest.compare_exchange_weak(now, from);) {}
  for (uintptr_t now = highest.load(); to > now && !highest.compare_exchange_weak(now, to);) {}
}
}  // namespace

Vm::Vm() : off(switches_off()), unseen_writes(unseen) {
  static std::once_flag once;
  // The parent's VMs are nothing to the child, and threads that it has not may hold their locks.
  std::call_once(once, [] {
    pthread_atfork([] { during_fork.lock(all_mutex); }, [] { during_fork.unlock(all_mutex); }, [] {
      all.clear();
      lowest = ~uintptr_t{0}, highest = 0;
      during_fork.unlock(all_mutex);
    });
  });
  vcpus.reserve(kMostVcpus);  // FAST code goes over them without the mutex
}
void Vm::expect_unseen_writes() { unseen = true; }
std::atomic<uint64_t> Vm::foreign_ticks{0};
void Vm::expect_foreign_writes(uint64_t host_tsc_ticks) { foreign_ticks = host_tsc_ticks; }

Vm::~Vm() {
  {
    HeldSignals held;
    std::lock_guard lock(all_mutex);  // first: who goes over them, at the program's end too, meets none that is half gone
    std::erase(all, this);
  }
  if (stored) stored->save();
  stored.reset();
  page_worker.stop();
  if (counters) munmap(counters, sizeof *counters);
#ifdef VIREO_VERIFY_BLOCKS
  if (!getenv("VIREO_SOFTKVM_STATS") || !code) return;
  const CodeCache::Verified& v = code->verified();
  fprintf(stderr, "block verifier passed %llu blocks of %llu host instructions, %llu links\n", (unsigned long long)v.blocks,
          (unsigned long long)v.instructions, (unsigned long long)v.links);
#endif
}

namespace {
// Programs end without closing their VMs. Others may be running still: what they make from now on is not kept.
void save_code_at_exit() {
  static std::once_flag once;
  std::call_once(once, [] {
    std::atexit([] {
      HeldSignals held;
      std::lock_guard lock(all_mutex);
      for (Vm* vm : all)
        if (vm->stored) vm->stored->save();
    });
  });
}
}  // namespace

std::unique_ptr<Vm> Vm::create() {
  std::unique_ptr<Vm> vm(new Vm);
  vm->slots = std::make_unique<Slots>();
  void* counters = mmap(nullptr, sizeof(VmCounters), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (counters == MAP_FAILED) return nullptr;
  vm->counters = new (counters) VmCounters{};
  vm->code.reset(CodeCache::create(kCodeCacheBytes, *vm->counters));
  if (!vm->code) return nullptr;
  vm->code->whole_pages = vm->off & kSwitchCodeChunks;
  vm->code->small_pages = vm->off & kSwitchLargePages;
  if (!(vm->off & kSwitchStoredCode)) vm->stored = StoredCode::create(vm->off, vm->code->mutex, *vm->counters);
  if (vm->stored) save_code_at_exit();
  install_host_fault_handlers();
  HeldSignals held;
  std::lock_guard lock(all_mutex);  // last: who goes over them finds whole ones
  all.push_back(vm.get());
  return vm;
}

namespace {
void relax(unsigned spins) {
  if (spins > 64) sched_yield();
  else __builtin_ia32_pause();
}
}  // namespace

void reach_safe_points(Vm& vm, uint32_t request, const Vcpu* except) {
  if (request & kRequestFlushTlb) __atomic_fetch_add(&vm.counters->remote_tlb_flush, 1, __ATOMIC_RELAXED);
  std::lock_guard lock(vm.vcpus_mutex);
  for (Vcpu* v : vm.vcpus) {
    if (v == except) continue;
    Engine& engine = engine_of(*v);
    engine.requests.fetch_or(request);
    __atomic_store_n(&v->attention, 1u, __ATOMIC_SEQ_CST);
    wake_native(engine);
  }
  for (Vcpu* v : vm.vcpus) {
    if (v == except) continue;
    Engine& engine = engine_of(*v);
    // Not running: it will see the request before it runs again.
    for (unsigned spins = 0; engine.running.load(); spins++) {
      if (!(engine.requests.load() & request)) break;
      relax(spins);
    }
  }
}

AtMemory::AtMemory(Vcpu& vcpu) : vcpu_(vcpu) { engine_of(vcpu).running.store(1); }
AtMemory::~AtMemory() { engine_of(vcpu_).running.store(0, std::memory_order_release); }

namespace {
// Whoever starts to run says so (Engine::running) before it looks at Vm::exclusive; here it is the other way round. So one of both sees the
// other.
void hold(Vm& vm, const void* holder, const Vcpu* except) {
  vm.exclusive.store(holder);
  if (except) engine_of(*except).exclusive = true;
  std::lock_guard lock(vm.vcpus_mutex);
  for (Vcpu* v : vm.vcpus) {
    if (v == except) continue;
    engine_of(*v).requests.fetch_or(kRequestHold);
    __atomic_store_n(&v->attention, 1u, __ATOMIC_SEQ_CST);
    wake_native(engine_of(*v));
  }
  for (Vcpu* v : vm.vcpus) {
    if (v == except) continue;
    for (unsigned spins = 0; engine_of(*v).running.load(); spins++) relax(spins);
  }
}
}  // namespace

Exclusive::Exclusive(Vcpu& vcpu) : vcpu_(vcpu), lock_(vcpu.vm->exclusive_mutex) { hold(*vcpu.vm, &vcpu, &vcpu); }

Exclusive::~Exclusive() {
  engine_of(vcpu_).exclusive = false;
  vcpu_.vm->exclusive.store(nullptr);
}

AllHeld::AllHeld(Vm& vm) : vm_(vm), lock_(vm.exclusive_mutex) { hold(vm, &vm, nullptr); }
AllHeld::~AllHeld() { vm_.exclusive.store(nullptr); }

void wait_while_held(const Vcpu& vcpu) {
  for (unsigned spins = 0;; spins++) {
    const void* holder = vcpu.vm->exclusive.load();
    if (!holder || holder == &vcpu) return;
    relax(spins);
  }
}

int Vm::set_memory_region(const kvm_userspace_memory_region& region) {
  bool changed;
  if (region.memory_size) widen(region.userspace_addr, region.userspace_addr + region.memory_size);
  int result = slots->set(region, changed, false);
  if (result) return result;
  std::optional<AllHeld> held;
  if (changed) {
    // Slots that have moved or share memory get new books. While one vCPU went by the old ones and another by the new, code could be written to that the
    // writer knew nothing of, and run.
    held.emplace(*this);
    result = slots->set(region, changed, true);
    if (result) return result;
  }
  const SlotTable& table = slots->table();
  counters->memory_slots = static_cast<uint64_t>(std::count_if(table.slots, table.slots + table.count, [](const Slot& slot) { return slot.size != 0; }));
  if (!changed) return 0;
  {
    std::lock_guard lock(code->mutex);
    code->invalidate_all();
  }
  reach_safe_points(*this, kRequestFlushTlb | kRequestFlushCode, nullptr);
  held.reset();
  slots->retire();
  return 0;
}

int Vm::allow_large_pages(const void* host, uint64_t size) {
  if (off & kSwitchLargePages) return 0;
  page_worker.start();  // without it who uses a page gets it
  code->worker = &page_worker;
  return large.add(host, size);
}

void Vm::return_memory(const void* host, uint64_t size) {
  lent.remove(host, size);
  reach_safe_points(*this, kRequestFlushTlb, nullptr);
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

int Vm::reset_dirty_rings() {
  int count = 0;
  {
    std::lock_guard lock(vcpus_mutex);
    for (Vcpu* vcpu : vcpus) {
      if (!vcpu->dirty_ring) continue;
      count += static_cast<int>(vcpu->dirty_ring->take_back([&](uint32_t id, uint64_t page) {
        const Slot* slot = slots->by_id(id);
        if (slot && slot->dirty && page < slot->size / kPageSize) slot->dirty[page / 64].fetch_and(~(1ull << page % 64));
      }));
    }
  }
  if (count) reach_safe_points(*this, kRequestFlushTlb, nullptr);
  return count;
}

void invalidate_code(Vm& vm, uint64_t gpa, uint64_t size) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);  // what has been written, before it is looked whether there is code
  while (size) {
    uint64_t n = std::min<uint64_t>(size, kPageSize - (gpa & 0xfff));
    if (const Slot* slot = vm.slots->find(gpa); slot && slot->code_of(gpa).load()) {
      std::lock_guard lock(vm.code->mutex);
      drop_blocks(vm, *slot, gpa, n);
    }
    gpa += n, size -= n;
  }
}

void Vm::drop_code(const void* host, size_t size, bool dirty) {
  auto* begin = static_cast<const uint8_t*>(host);
  auto lock = slots->hold();
  const SlotTable& table = slots->table();
  // [from, to) of the slot has changed.
  auto drop = [&](const Slot& s, uint64_t from, uint64_t to) {
    for (uint64_t page = from >> 12; page <= (to - 1) >> 12; page++) {
      if (dirty) dirtied(s, s.gpa + (page << 12));
      if (!s.code[page].load()) continue;
      uint64_t a = std::max(from, page << 12), b = std::min(to, (page + 1) << 12);
      invalidate_code(*this, s.gpa + a, b - a);
    }
  };
  auto overlaps = [&](const Slot& s) { return s.size != 0 && begin + size > s.host && begin < s.host + s.size; };
  constexpr unsigned kManySlots = 256;
  if (table.count > kManySlots && !dirty) {
    // Guests of very many slots are tests, and have little code.
    std::vector<uint64_t> pages;
    {
      std::lock_guard code_lock(code->mutex);
      code->each_page([&](uint64_t page) { pages.push_back(page); });
    }
    for (uint64_t page : pages) {
      const Slot* s = slots->find(page);
      if (!s || begin + size <= s->host + (page - s->gpa) || begin >= s->host + (page - s->gpa) + kPageSize) continue;
      drop(*s, page - s->gpa, page - s->gpa + kPageSize);
    }
    return;
  }
  for (unsigned i = 0; i < table.count; i++) {
    const Slot& s = table.slots[i];
    if (!overlaps(s)) continue;
    uint64_t from = begin > s.host ? begin - s.host : 0;
    uint64_t to = std::min<uint64_t>(s.size, begin + size - s.host);
    drop(s, from, to);
  }
}

void Vm::notice_write(const void* host, size_t size) {
  drop_code(host, size, true);
}

void Vm::notice_change(const void* host, size_t size) {
  const auto from = reinterpret_cast<uintptr_t>(host);
  if (size == 0 || from >= highest.load(std::memory_order_acquire) || from + size <= lowest.load(std::memory_order_acquire)) return;
  HeldSignals held;
  std::lock_guard lock(all_mutex);
  for (Vm* vm : all)
    vm->drop_code(host, size, false);
}

}  // namespace vireo::softkvm
