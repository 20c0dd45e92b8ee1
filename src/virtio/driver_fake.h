// SPDX-License-Identifier: Apache-2.0
// The driver's side of a virtqueue in either format, small and for tests only. Spec: virtio 1.3, 2.7.13 and 2.8.21.
#pragma once

#include <gtest/gtest.h>
#include <linux/virtio_ring.h>

#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "memory/guest_memory.h"
#include "virtio/queue.h"

namespace vireo::virtio {

inline std::unique_ptr<GuestMemory> test_memory(uint64_t size = 16 << 20) {
  auto memory = GuestMemory::create({.size = size, .transparent_huge_pages = false}, 3ull << 30);
  EXPECT_TRUE(memory.has_value());
  return std::move(*memory);
}

// Hands out guest memory from `start` upwards.
class FakeHeap {
 public:
  FakeHeap(GuestMemory& memory, uint64_t start = 0x10000) : memory(memory), next_(start) {}
  GuestAddress take(uint64_t size, uint64_t align = 16) {
    next_ = (next_ + align - 1) / align * align;
    GuestAddress at{next_};
    next_ += size;
    EXPECT_FALSE(memory.range(at, std::max<uint64_t>(size, 1)).empty());
    return at;
  }
  GuestMemory& memory;

 private:
  uint64_t next_;
};

struct Buffer {
  GuestAddress address;
  uint32_t size;
  bool writable = false;
};

class FakeDriver {
 public:
  struct Used {
    uint16_t id;
    uint32_t length;
  };

  FakeDriver(FakeHeap& heap, Queue::Format format, uint16_t size, bool event_idx, bool indirect)
      : heap_(heap), packed_(format == Queue::Format::kPacked) {
    config.format = format;
    config.size = size;
    config.event_idx = event_idx;
    config.indirect = indirect;
    config.descriptors = heap.take(16 * size, 4096);
    config.driver = heap.take(6 + 2 * size, 4096);
    config.device = heap.take(6 + 8 * size, 4096);
    for (uint16_t i = 0; i < size; ++i) free_.push_back(size - 1 - i);
  }

  // Gives a chain to the device and returns its id. `table`: through an indirect table.
  uint16_t add(const std::vector<Buffer>& buffers, bool table = false) {
    return packed_ ? add_packed(buffers, table) : add_split(buffers, table);
  }

  std::optional<Used> used() { return packed_ ? used_packed() : used_split(); }

  // Whether the device wants to be told about what was added since the last ask.
  bool must_notify() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (packed_) {
      uint16_t place = get<uint16_t>(config.device), flags = get<uint16_t>(config.device + 2);
      uint16_t added = std::exchange(added_, 0);
      if (flags != VRING_PACKED_EVENT_FLAG_DESC) return flags == VRING_PACKED_EVENT_FLAG_ENABLE;
      uint16_t event = place & 0x7fff;
      if ((place >> 15) != avail_wrap_) event -= config.size;
      return vring_need_event(event, next_, next_ - added);
    }
    uint16_t added = std::exchange(added_, 0);
    if (config.event_idx)
      return vring_need_event(get<uint16_t>(config.device + 4 + 8 * config.size), next_, next_ - added);
    return !(get<uint16_t>(config.device) & VRING_USED_F_NO_NOTIFY);
  }

  // Asks for no interrupts, or for one at once, or (EVENT_IDX) for one when `after` more slots are used.
  void want_interrupts(bool wanted, uint16_t after = 0) {
    if (packed_) {
      uint16_t position = last_used_ + after;
      bool wrap = used_wrap_;
      if (position >= config.size) position -= config.size, wrap = !wrap;
      put<uint16_t>(config.driver, position | (wrap ? 0x8000 : 0));
      put<uint16_t>(config.driver + 2, !wanted            ? VRING_PACKED_EVENT_FLAG_DISABLE
                                       : config.event_idx ? VRING_PACKED_EVENT_FLAG_DESC
                                                          : VRING_PACKED_EVENT_FLAG_ENABLE);
    } else if (config.event_idx) {
      put<uint16_t>(config.driver + 4 + 2 * config.size, wanted ? last_used_ + after : last_used_ - 1);
    } else {
      put<uint16_t>(config.driver, wanted ? 0 : VRING_AVAIL_F_NO_INTERRUPT);
    }
  }

  // Ring fields are handed over like a real driver's: with acquire and release.
  template <class T>
  T get(GuestAddress at) {
    auto bytes = heap_.memory.range(at, sizeof(T));
    if (bytes.empty()) throw std::out_of_range("driver reads outside RAM");
    if constexpr (std::is_integral_v<T>)
      if (raw(at) % sizeof(T) == 0) return __atomic_load_n(reinterpret_cast<const T*>(bytes.data()), __ATOMIC_ACQUIRE);
    T value;
    memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  template <class T>
  void put(GuestAddress at, T value) {
    auto bytes = heap_.memory.range(at, sizeof(T));
    if (bytes.empty()) throw std::out_of_range("driver writes outside RAM");
    if constexpr (std::is_integral_v<T>)
      if (raw(at) % sizeof(T) == 0) return __atomic_store_n(reinterpret_cast<T*>(bytes.data()), value, __ATOMIC_RELEASE);
    memcpy(bytes.data(), &value, sizeof value);
  }
  std::string text(GuestAddress at, size_t size) {
    std::string out(size, 0);
    EXPECT_TRUE(heap_.memory.read(at, std::as_writable_bytes(std::span(out))));
    return out;
  }
  Buffer string(const std::string& s, bool writable = false) {
    GuestAddress at = heap_.take(s.size());
    EXPECT_TRUE(heap_.memory.write(at, std::as_bytes(std::span(s))));
    return {at, static_cast<uint32_t>(s.size()), writable};
  }
  Buffer room(uint32_t size) { return {heap_.take(size), size, true}; }
  FakeHeap& heap() { return heap_; }

  Queue::Config config;

 private:
  struct Raw {
    uint64_t address;
    uint32_t length;
    uint16_t third, fourth;
  };

  GuestAddress make_table(const std::vector<Buffer>& buffers) {
    GuestAddress at = heap_.take(16 * buffers.size());
    for (size_t i = 0; i < buffers.size(); ++i) {
      bool last = i + 1 == buffers.size();
      uint16_t write = buffers[i].writable ? VRING_DESC_F_WRITE : 0;
      if (packed_)
        put(at + 16 * i, Raw{raw(buffers[i].address), buffers[i].size, 0, write});
      else
        put(at + 16 * i, Raw{raw(buffers[i].address), buffers[i].size,
                             static_cast<uint16_t>(write | (last ? 0 : VRING_DESC_F_NEXT)), static_cast<uint16_t>(i + 1)});
    }
    return at;
  }

  uint16_t add_split(const std::vector<Buffer>& buffers, bool table) {
    std::vector<Buffer> direct = buffers;
    uint16_t extra = 0;
    if (table) {
      direct = {{make_table(buffers), static_cast<uint32_t>(16 * buffers.size())}};
      extra = VRING_DESC_F_INDIRECT;
    }
    EXPECT_GE(free_.size(), direct.size());
    std::vector<uint16_t> slots(free_.end() - direct.size(), free_.end());
    free_.resize(free_.size() - direct.size());
    for (size_t i = 0; i < direct.size(); ++i) {
      bool last = i + 1 == direct.size();
      uint16_t flags = extra | (direct[i].writable ? VRING_DESC_F_WRITE : 0) | (last ? 0 : VRING_DESC_F_NEXT);
      put(config.descriptors + 16 * slots[i],
          Raw{raw(direct[i].address), direct[i].size, flags, last ? uint16_t{0} : slots[i + 1]});
    }
    chains_[slots[0]] = slots;
    put<uint16_t>(config.driver + 4 + 2 * (next_ % config.size), slots[0]);
    ++next_;
    ++added_;
    put<uint16_t>(config.driver + 2, next_);
    return slots[0];
  }

  std::optional<Used> used_split() {
    if (get<uint16_t>(config.device + 2) == last_used_) return std::nullopt;
    GuestAddress at = config.device + 4 + 8 * (last_used_ % config.size);
    Used out{static_cast<uint16_t>(get<uint32_t>(at)), get<uint32_t>(at + 4)};
    ++last_used_;
    auto& slots = chains_.at(out.id);
    free_.insert(free_.end(), slots.begin(), slots.end());
    chains_.erase(out.id);
    return out;
  }

  uint16_t turn(bool wrap) { return wrap ? 1u << 7 : 1u << 15; }

  uint16_t add_packed(const std::vector<Buffer>& buffers, bool table) {
    uint16_t id = free_.back();
    free_.pop_back();
    std::vector<Buffer> direct = buffers;
    uint16_t extra = 0;
    if (table) {
      direct = {{make_table(buffers), static_cast<uint32_t>(16 * buffers.size())}};
      extra = VRING_DESC_F_INDIRECT;
    }
    uint16_t first = next_, first_flags = 0;
    for (size_t i = 0; i < direct.size(); ++i) {
      bool last = i + 1 == direct.size();
      uint16_t flags =
          extra | turn(avail_wrap_) | (direct[i].writable ? VRING_DESC_F_WRITE : 0) | (last ? 0 : VRING_DESC_F_NEXT);
      GuestAddress slot = config.descriptors + 16 * next_;
      put<uint64_t>(slot, raw(direct[i].address));
      put<uint32_t>(slot + 8, direct[i].size);
      put<uint16_t>(slot + 12, id);
      if (i == 0)
        first_flags = flags;  // last of all
      else
        put<uint16_t>(slot + 14, flags);
      if (++next_ == config.size) next_ = 0, avail_wrap_ = !avail_wrap_;
    }
    put<uint16_t>(config.descriptors + 16 * first + 14, first_flags);
    chains_[id] = std::vector<uint16_t>(direct.size());
    added_ += direct.size();
    return id;
  }

  std::optional<Used> used_packed() {
    GuestAddress at = config.descriptors + 16 * last_used_;
    uint16_t flags = get<uint16_t>(at + 14);
    if (!!(flags & 0x80) != used_wrap_ || !!(flags & 0x8000) != used_wrap_) return std::nullopt;
    Used out{get<uint16_t>(at + 12), get<uint32_t>(at + 8)};
    last_used_ += chains_.at(out.id).size();
    if (last_used_ >= config.size) last_used_ -= config.size, used_wrap_ = !used_wrap_;
    chains_.erase(out.id);
    free_.push_back(out.id);
    return out;
  }

  FakeHeap& heap_;
  bool packed_;
  uint16_t next_ = 0, last_used_ = 0, added_ = 0;
  bool avail_wrap_ = true, used_wrap_ = true;
  std::vector<uint16_t> free_;
  std::map<uint16_t, std::vector<uint16_t>> chains_;
};

}  // namespace vireo::virtio
