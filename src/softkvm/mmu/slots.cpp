// SPDX-License-Identifier: Apache-2.0
#include "softkvm/mmu/slots.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <unordered_map>

namespace vireo::softkvm {
namespace {

constexpr uint32_t kMaxSlots = 32764;  // in each address space
constexpr uint32_t kSpaces = 2;
constexpr uint64_t kMaxPages = (1ull << 31) - 1;

// Zeroes. Of a large slot's arrays most is never touched, so they are mapped; a guest of many small slots must not run out of mappings.
template <class T>
std::shared_ptr<T> lazy_array(uint64_t count) {
  constexpr size_t kSmall = 64 << 10;
  size_t bytes = count * sizeof(T);
  if (bytes <= kSmall) return std::shared_ptr<T>(static_cast<T*>(calloc(1, bytes)), [](T* p) { free(p); });
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
    std::shared_ptr<std::atomic<uint8_t>> writers;
  };
  std::vector<Backed> backed;
  std::vector<Slot> slots;

  std::unordered_map<uint32_t, size_t> by_id;  // place in `backed`

  // Slots of the same host memory share what is kept for its pages.
  void share() {
    std::vector<Backed*> by_host;
    for (Backed& b : backed) by_host.push_back(&b);
    std::sort(by_host.begin(), by_host.end(), [](const Backed* a, const Backed* b) { return a->slot.host < b->slot.host; });
    for (size_t first = 0, next; first < by_host.size(); first = next) {
      const uint8_t* end = by_host[first]->slot.host + by_host[first]->slot.size;
      for (next = first + 1; next < by_host.size() && by_host[next]->slot.host < end; next++)
        end = std::max<const uint8_t*>(end, by_host[next]->slot.host + by_host[next]->slot.size);
      if (next == first + 1) continue;
      const uint8_t* begin = by_host[first]->slot.host;
      const uint64_t pages = static_cast<uint64_t>(end - begin) >> 12;
      auto code = lazy_array<std::atomic<uint64_t>>(pages);
      auto writers = lazy_array<std::atomic<uint8_t>>(pages);
      if (!code || !writers) continue;  // each keeps its own
      for (size_t i = first; i < next; i++) {
        Backed& b = *by_host[i];
        const uint64_t page = static_cast<uint64_t>(b.slot.host - begin) >> 12;
        b.code = std::shared_ptr<std::atomic<uint64_t>>(code, code.get() + page);
        b.writers = std::shared_ptr<std::atomic<uint8_t>>(writers, writers.get() + page);
        b.slot.code = b.code.get();
        b.slot.writers = b.writers.get();
        b.slot.aliased = true;
      }
    }
  }

  bool has_host(const uint8_t* host, uint64_t size) const {
    return std::any_of(backed.begin(), backed.end(), [&](const Backed& b) { return host < b.slot.host + b.slot.size && b.slot.host < host + size; });
  }

  void seal() {
    share();
    std::sort(backed.begin(), backed.end(), [](auto& a, auto& b) { return a.slot.gpa < b.slot.gpa; });
    slots.reserve(backed.size() + backed.size() / 2 + 8);
    for (size_t i = 0; i < backed.size(); i++) {
      slots.push_back(backed[i].slot);
      by_id[backed[i].slot.id] = i;
    }
    table.slots = slots.data();
    table.count.store(static_cast<unsigned>(slots.size()), std::memory_order_release);
  }
  // A new slot behind all others goes in without another version: who looks sees it or does not.
  bool append(const Backed& b) {
    if (slots.size() == slots.capacity() || (!slots.empty() && b.slot.gpa <= slots.back().gpa) || has_host(b.slot.host, b.slot.size)) return false;
    by_id[b.slot.id] = backed.size();
    backed.push_back(b);
    slots.push_back(b.slot);
    table.count.store(static_cast<unsigned>(slots.size()), std::memory_order_release);
    return true;
  }
};

Slots::Slots() : current_(std::make_unique<Generation>()) {
  current_->seal();
  table_ = &current_->table;
}
Slots::~Slots() = default;

int Slots::set(const kvm_userspace_memory_region& region, bool& changed, bool held) {
  std::lock_guard lock(mutex_);
  changed = false;
  if (region.flags & ~(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY)) return -EINVAL;
  if ((region.memory_size | region.guest_phys_addr | region.userspace_addr) & ~kPageMask) return -EINVAL;
  const uint32_t space = region.slot >> 16;
  if (space >= kSpaces || (region.slot & 0xffff) >= kMaxSlots) return -EINVAL;
  if (region.guest_phys_addr + region.memory_size < region.guest_phys_addr) return -EINVAL;
  if ((region.memory_size >> 12) > kMaxPages) return -EINVAL;
  if (region.guest_phys_addr + region.memory_size > kSmmSpace) return -EINVAL;
  const uint64_t start = region.guest_phys_addr + (space ? kSmmSpace : 0);

  const Generation::Backed* old = nullptr;
  if (auto known = current_->by_id.find(region.slot); known != current_->by_id.end()) old = &current_->backed[known->second];
  if (region.memory_size) {
    // They do not overlap each other: the first that ends behind the new one's start decides, or the next if that is the old one itself.
    const auto& all = current_->backed;
    auto at = std::upper_bound(all.begin(), all.end(), start,
                               [](uint64_t gpa, const auto& b) { return gpa < b.slot.gpa + b.slot.size; });
    while (at != all.end() && (&*at == old || at->slot.size == 0)) ++at;
    if (at != all.end() && at->slot.gpa < start + region.memory_size) return -EEXIST;
  }
  Generation::Backed b{};
  if (!region.memory_size) {
    if (!old) return -EINVAL;
    if (!held) return changed = true, 0;
    const size_t place = static_cast<size_t>(old - current_->backed.data());
    Generation::Backed& gone = current_->backed[place];
    __atomic_store_n(&current_->slots[place].size, 0, __ATOMIC_RELEASE);
    gone.slot.size = 0;
    current_->by_id.erase(region.slot);
    for (std::shared_ptr<void> array : {std::shared_ptr<void>(std::move(gone.code)), std::shared_ptr<void>(std::move(gone.dirty)),
                                        std::shared_ptr<void>(std::move(gone.writers))})
      retired_arrays_.push_back(std::move(array));
    changed = true;
    return 0;
  }
  if (old) {
    // The kernel lets a slot move or change its dirty logging; host address, size and read-only stay.
    if (region.userspace_addr != reinterpret_cast<uint64_t>(old->slot.host) || region.memory_size != old->slot.size ||
        (region.flags ^ old->slot.flags) & KVM_MEM_READONLY)
      return -EINVAL;
    if (start == old->slot.gpa && region.flags == old->slot.flags) return 0;
    if (!held) return changed = true, 0;
    b = *old;
  }
  b.slot.gpa = start;
  b.slot.size = region.memory_size;
  b.slot.host = reinterpret_cast<uint8_t*>(region.userspace_addr);
  b.slot.id = region.slot;
  b.slot.flags = region.flags;
  uint64_t pages = region.memory_size >> 12;
  if (!b.code || (old && old->slot.gpa != start)) {
    b.code = lazy_array<std::atomic<uint64_t>>(pages);
    b.writers = lazy_array<std::atomic<uint8_t>>(pages);
    if (!b.code || !b.writers) return -ENOMEM;
  }
  if (region.flags & KVM_MEM_LOG_DIRTY_PAGES) {
    if (!b.dirty) b.dirty = lazy_array<std::atomic<uint64_t>>((pages + 63) / 64);
    if (!b.dirty) return -ENOMEM;
  } else {
    b.dirty = nullptr;
  }
  b.slot.code = b.code.get();
  b.slot.writers = b.writers.get();
  b.slot.dirty = b.dirty.get();
  if (!old && current_->append(b)) return 0;  // where nothing was, nothing was derived
  if (!held) return changed = true, 0;
  b.slot.aliased = false;
  auto next = std::make_unique<Generation>();
  next->backed.reserve(current_->backed.size() + 1);
  for (const auto& kept : current_->backed)
    if (&kept != old && kept.slot.size != 0) next->backed.push_back(kept);
  next->backed.push_back(std::move(b));
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
  retired_arrays_.clear();
}

const Slot* Slots::by_id(uint32_t id) const {
  auto known = current_->by_id.find(id);
  return known != current_->by_id.end() ? &current_->slots[known->second] : nullptr;
}

}  // namespace vireo::softkvm
