// SPDX-License-Identifier: Apache-2.0
// The stored blocks' parts that are ordinary C++: their memory, and taking records in.
#include <sys/mman.h>

#include <bit>
#include <cstring>

#include "softkvm/translate/stored_blocks.h"

namespace vireo::softkvm {
namespace {

// Zeroes that take no memory until they are touched; null when there is no room.
template <class T>
T* room(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  madvise(p, bytes, MADV_HUGEPAGE);
  return static_cast<T*>(p);
}
void give_back(void* p, size_t bytes) {
  if (p) munmap(p, bytes);
}

constexpr size_t kBehind = 64;  // FAST code reads and copies by eight bytes
size_t bitmap_size(size_t body) { return body / 64 + 1; }

}  // namespace

StoredBlocks::~StoredBlocks() {
  give_back(body_, body_size_ + kBehind);
  give_back(index_, index_size_ * sizeof *index_);
  give_back(used_, bitmap_size(body_size_));
  give_back(looked_up_, bitmap_size(body_size_));
  give_back(made_, made_room_);
}

bool StoredBlocks::make_room(size_t size, size_t count) {
  if (body_ || size == 0 || count == 0 || size / 8 >= ~uint32_t{0} || count > size / sizeof(StoredBlock)) return false;
  body_size_ = size;
  most_ = count;
  index_size_ = std::bit_ceil(2 * count + 1);
  body_ = room<uint8_t>(size + kBehind);
  index_ = room<std::atomic<uint64_t>>(index_size_ * sizeof *index_);
  used_ = room<uint8_t>(bitmap_size(size));
  looked_up_ = room<std::atomic<uint8_t>>(bitmap_size(size));
  return body_ && index_ && used_ && looked_up_;
}

bool StoredBlocks::make_notes(size_t size) {
  made_ = room<uint8_t>(size);
  made_room_ = made_ ? size : 0;
  return made_;
}

bool StoredBlocks::take(size_t end) {
  size_t at = ready_.load(std::memory_order_relaxed), count = count_.load(std::memory_order_relaxed);
  bool good = end <= body_size_;
  while (good && end - at >= sizeof(StoredBlock)) {
    uint32_t size;
    std::memcpy(&size, body_ + at, sizeof size);
    if (size > end - at && end < body_size_) break;  // the rest of it comes later
    const StoredBlock* stored = checked_block(body_ + at, end - at);
    good = stored && count < most_;
    if (!good) break;
    const uint64_t key = stored_key(stored->mode, stored->offset, stored->straddle != 0, stored->key_size, stored->source());
    size_t i = key & (index_size_ - 1);
    while (index_[i].load(std::memory_order_relaxed)) i = (i + 1) & (index_size_ - 1);
    index_[i].store((key & ~0xffffffffull) | (at / 8 + 1), std::memory_order_release);
    at += size;
    count++;
  }
  count_.store(count, std::memory_order_relaxed);
  ready_.store(at, std::memory_order_release);
  return good && (end < body_size_ || at == body_size_);
}

StoredBlock* StoredBlocks::twin(const StoredBlock& stored) const {
  if (!taken()) return nullptr;
  constexpr size_t kOwn = offsetof(StoredBlock, age), kHead = sizeof(StoredBlock);
  const uint64_t key = stored_key(stored.mode, stored.offset, stored.straddle != 0, stored.key_size, stored.source());
  for (size_t i = key & (index_size_ - 1);; i = (i + 1) & (index_size_ - 1)) {
    const uint64_t entry = index_[i].load(std::memory_order_acquire);
    if (!entry) return nullptr;
    if (entry >> 32 != key >> 32) continue;
    auto& other = *reinterpret_cast<StoredBlock*>(body_ + ((entry & 0xffffffff) - 1) * 8);
    if (other.size == stored.size && std::memcmp(other.bytes(), stored.bytes(), kOwn) == 0 &&
        std::memcmp(other.bytes() + kHead, stored.bytes() + kHead, stored.size - kHead) == 0)
      return &other;
  }
}

}  // namespace vireo::softkvm
