// SPDX-License-Identifier: Apache-2.0
// A vCPU's dirty ring: pages that were clean and are written go in, user space takes them out and gives them back by KVM_RESET_DIRTY_RINGS.
// The slot's dirty bitmap says which pages are in a ring already. FAST but for take_back(). Spec: Documentation/virt/kvm/api.rst, 8.29.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstdint>

namespace vireo::softkvm {

class DirtyRing {
 public:
  // KVM_RUN leaves with KVM_EXIT_DIRTY_RING_FULL while fewer entries are left than one run of translated code between two polls may need.
  static constexpr uint32_t kReserved = 576, kMinimum = 1024, kMaximum = 65536;

  DirtyRing(kvm_dirty_gfn* entries, uint32_t size) : entries_(entries), size_(size) {}

  // The mapping is user space's too: nothing is read from it here.
  void push(uint32_t slot, uint64_t page) {
    lock();
    put(slot, page);
    unlock();
  }
  bool full() const { return dirty_.load(std::memory_order_relaxed) - reset_.load(std::memory_order_relaxed) >= size_ - kReserved || late_count_; }

  // Takes what user space has harvested, in order: calls clean(slot, page) for each. How many.
  template <class F>
  uint32_t take_back(F clean) {
    lock();
    uint32_t count = 0;
    for (; count < size_ && reset_ != dirty_; count++) {
      kvm_dirty_gfn& entry = entries_[reset_ & (size_ - 1)];
      if (!(__atomic_load_n(&entry.flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET)) break;
      const uint32_t slot = entry.slot;
      const uint64_t page = entry.offset;
      __atomic_store_n(&entry.flags, 0, __ATOMIC_RELEASE);
      reset_++;
      clean(slot, page);
    }
    unsigned late = late_count_;
    late_count_ = 0;
    for (unsigned i = 0; i < late; i++) put(late_[i].slot, late_[i].page);
    unlock();
    return count;
  }

 private:
  void put(uint32_t slot, uint64_t page) {
    if (dirty_ - reset_ >= size_) {
      if (late_count_ < kReserved) late_[late_count_++] = {slot, page};
      return;
    }
    kvm_dirty_gfn& entry = entries_[dirty_ & (size_ - 1)];
    entry.slot = slot;
    entry.offset = page;
    __atomic_store_n(&entry.flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
    dirty_++;
  }
  void lock() {
    while (busy_.test_and_set(std::memory_order_acquire)) __builtin_ia32_pause();
  }
  void unlock() { busy_.clear(std::memory_order_release); }

  kvm_dirty_gfn* entries_;
  const uint32_t size_;
  std::atomic<uint32_t> dirty_{0}, reset_{0};
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  // What did not even go into the reserve.
  struct { uint32_t slot; uint64_t page; } late_[kReserved];
  std::atomic<unsigned> late_count_{0};
};

}  // namespace vireo::softkvm
