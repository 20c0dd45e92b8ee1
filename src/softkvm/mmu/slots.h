// SPDX-License-Identifier: Apache-2.0
// Memory slots: guest physical ranges and their host memory, read-only and dirty-log flags, and per page which 64-byte chunks
// translated code was made from. Lookups are lock-free; the table is replaced whole. Spec: KVM API, 4.35.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace vireo::softkvm {

constexpr uint64_t kPageSize = 4096, kPageMask = ~0xfffull;
// Address space 1, system management mode's, lies above all guest physical addresses of address space 0: inside softkvm an address says which one it
// is of. Devices see it without this bit.
constexpr uint64_t kSmmSpace = 1ull << 52;

struct Slot {
  uint64_t gpa, size;
  uint8_t* host;
  uint32_t id, flags;
  std::atomic<uint64_t>* code;   // per page: bit n set when bytes [64n, 64n+64) were translated
  std::atomic<uint64_t>* dirty;  // the dirty bitmap, or null
  std::atomic<uint8_t>* writers; // per page: which vCPUs (id modulo 8) may hold a write tag
  bool aliased;  // another slot has some of the same host memory: `code` and `writers` are then the host page's, shared by all

  bool writable() const { return !(flags & KVM_MEM_READONLY); }
  std::atomic<uint64_t>& code_of(uint64_t address) const { return code[(address - gpa) >> 12]; }
  std::atomic<uint8_t>& writers_of(uint64_t address) const { return writers[(address - gpa) >> 12]; }
  // The vCPU may write to the page from now on, unseen. Told before code_of() is looked at: whoever marks the page as code afterwards sees that, and waits
  // until this vCPU has been at a safe point. General registers only.
  void tell_of_write(unsigned vcpu, uint64_t address) const {
    std::atomic<uint8_t>& told = writers_of(address);
    const uint8_t mine = static_cast<uint8_t>(1u << (vcpu & 7));
    if (!(told.load(std::memory_order_relaxed) & mine)) told.fetch_or(mine);
  }
  // True: the page was clean. Callers go through dirtied() (mmu/access.h) or Vm::dirtied().
  bool mark_dirty(uint64_t address) const {
    if (!dirty) return false;
    const uint64_t page = (address - gpa) >> 12, bit = 1ull << page % 64;
    if (dirty[page / 64].load(std::memory_order_relaxed) & bit) return false;
    return !(dirty[page / 64].fetch_or(bit, std::memory_order_relaxed) & bit);
  }
};

struct SlotTable {
  std::atomic<unsigned> count{0};
  const Slot* slots = nullptr;  // sorted by gpa; a deleted one has size 0 until the table is made anew
};

class Slots {
 public:
  // Null when no slot has the address. General registers only; the slot stays valid until the caller's next safe point.
  const Slot* find(uint64_t gpa) const {
    const SlotTable* table = table_.load(std::memory_order_acquire);
    unsigned low = 0, high = table->count.load(std::memory_order_acquire);
    if (high <= kFew) {
      for (unsigned i = 0; i < high; i++) {
        const Slot& slot = table->slots[i];
        if (gpa - slot.gpa < slot.size) return &slot;
      }
      return nullptr;
    }
    while (high - low > 1) {
      const unsigned middle = (low + high) / 2;
      (table->slots[middle].gpa <= gpa ? low : high) = middle;
    }
    return gpa - table->slots[low].gpa < table->slots[low].size ? &table->slots[low] : nullptr;
  }
  uint8_t* host(uint64_t gpa) const {
    const Slot* slot = find(gpa);
    return slot ? slot->host + (gpa - slot->gpa) : nullptr;
  }
  // Calls f with every guest physical address of the host memory that a slot has at `gpa`.
  template <class F>
  void each_place(const Slot& slot, uint64_t gpa, F f) const {
    if (!slot.aliased) return f(gpa);
    const uint8_t* host = slot.host + (gpa - slot.gpa);
    const SlotTable* table = table_.load(std::memory_order_acquire);
    for (unsigned i = 0, count = table->count.load(std::memory_order_acquire); i < count; i++) {
      const Slot& other = table->slots[i];
      if (host >= other.host && host < other.host + other.size) f(other.gpa + static_cast<uint64_t>(host - other.host));
    }
  }
  const SlotTable& table() const { return *table_.load(std::memory_order_acquire); }

  Slots();
  ~Slots();

  // 0 or -errno. `changed` tells that vCPUs have to drop what they derived: without `held` nothing is done then, with it the caller holds all of them, and calls
  // retire() once they have.
  int set(const kvm_userspace_memory_region& region, bool& changed, bool held);
  void retire();
  // Keeps set() and retire() out, for threads that are no vCPU's.
  std::unique_lock<std::mutex> hold() { return std::unique_lock(mutex_); }
  const Slot* by_id(uint32_t id) const;

 private:
  static constexpr unsigned kFew = 16;  // are looked through one by one: the first is the one with most of the memory
  struct Generation;
  std::atomic<const SlotTable*> table_;
  std::unique_ptr<Generation> current_;
  std::vector<std::unique_ptr<Generation>> retired_;
  std::vector<std::shared_ptr<void>> retired_arrays_;
  std::mutex mutex_;
};

}  // namespace vireo::softkvm
