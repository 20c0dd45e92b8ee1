// SPDX-License-Identifier: Apache-2.0
#include "softkvm/mmu/slots.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

namespace vireo::softkvm {
namespace {

constexpr uint32_t kMaxSlots = 32764;
constexpr uint64_t kMaxPages = (1ull << 31) - 1;

// Zero pages on demand, as a bitmap of a large slot is mostly untouched.
template <class T>
std::shared_ptr<T> lazy_array(uint64_t count) {
  size_t bytes = count * sizeof(T);
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  return std::shared_ptr<T>(static_cast<T*>(p), [bytes](T* q) { munmap(q, bytes); });
}

}  // namespace

// One version of the table with shared ownership of what its slots point at.
struct Slots::Generation {
  SlotTable table;
  struct Backed {
    Slot slot;
    std::shared_ptr<std::atomic<uint64_t>> code, dirty;
  };
  std::vector<Backed> backed;
  std::vector<Slot> slots;

  void seal() {
    std::sort(backed.begin(), backed.end(), [](auto& a, auto& b) { return a.slot.gpa < b.slot.gpa; });
    for (auto& b : backed) slots.push_back(b.slot);
    table.count = slots.size();
    table.slots = slots.data();
  }
};

Slots::Slots() : current_(std::make_unique<Generation>()) { table_ = &current_->table; }
Slots::~Slots() = default;

int Slots::set(const kvm_userspace_memory_region& region, bool& changed) {
  std::lock_guard lock(mutex_);
  changed = false;
  if (region.flags & ~(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY)) return -EINVAL;
  if ((region.memory_size | region.guest_phys_addr | region.userspace_addr) & ~kPageMask) return -EINVAL;
  if (region.slot >= kMaxSlots) return -EINVAL;
  if (region.guest_phys_addr + region.memory_size < region.guest_phys_addr) return -EINVAL;
  if ((region.memory_size >> 12) > kMaxPages) return -EINVAL;
  if (region.guest_phys_addr + region.memory_size > 1ull << 52) return -EINVAL;

  auto next = std::make_unique<Generation>();
  const Generation::Backed* old = nullptr;
  for (auto& b : current_->backed) {
    if (b.slot.id == region.slot) {
      old = &b;
      continue;
    }
    next->backed.push_back(b);
    if (region.memory_size && region.guest_phys_addr < b.slot.gpa + b.slot.size &&
        b.slot.gpa < region.guest_phys_addr + region.memory_size)
      return -EEXIST;
  }
  if (!region.memory_size) {
    if (!old) return -EINVAL;
  } else {
    Generation::Backed b{};
    if (old) {
      // The kernel lets a slot move or change its dirty logging; host address, size and read-only stay.
      if (region.userspace_addr != reinterpret_cast<uint64_t>(old->slot.host) || region.memory_size != old->slot.size ||
          (region.flags ^ old->slot.flags) & KVM_MEM_READONLY)
        return -EINVAL;
      if (region.guest_phys_addr == old->slot.gpa && region.flags == old->slot.flags) return 0;
      b = *old;
    }
    b.slot.gpa = region.guest_phys_addr;
    b.slot.size = region.memory_size;
    b.slot.host = reinterpret_cast<uint8_t*>(region.userspace_addr);
    b.slot.id = region.slot;
    b.slot.flags = region.flags;
    uint64_t pages = region.memory_size >> 12;
    if (!b.code || (old && old->slot.gpa != region.guest_phys_addr)) {
      b.code = lazy_array<std::atomic<uint64_t>>(pages);
      if (!b.code) return -ENOMEM;
    }
    if (region.flags & KVM_MEM_LOG_DIRTY_PAGES) {
      if (!b.dirty) b.dirty = lazy_array<std::atomic<uint64_t>>((pages + 63) / 64);
      if (!b.dirty) return -ENOMEM;
    } else {
      b.dirty = nullptr;
    }
    b.slot.code = b.code.get();
    b.slot.dirty = b.dirty.get();
    next->backed.push_back(std::move(b));
  }
  next->seal();
  table_.store(&next->table, std::memory_order_release);
  retired_.push_back(std::move(current_));
  current_ = std::move(next);
  changed = true;
  return 0;
}

void Slots::retire() {
  std::lock_guard lock(mutex_);
  retired_.clear();
}

const Slot* Slots::by_id(uint32_t id) const {
  const SlotTable& t = table();
  for (unsigned i = 0; i < t.count; i++)
    if (t.slots[i].id == id) return &t.slots[i];
  return nullptr;
}

}  // namespace vireo::softkvm
