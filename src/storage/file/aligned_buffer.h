// SPDX-License-Identifier: Apache-2.0
// Memory that O_DIRECT takes as it is. Its contents are not set.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <utility>

namespace vireo::storage {

struct AlignedBuffer {
  AlignedBuffer() = default;
  // `bytes` is null when there is no memory.
  explicit AlignedBuffer(size_t size) : bytes(static_cast<std::byte*>(aligned_alloc(4096, (size + 4095) / 4096 * 4096))) {}
  AlignedBuffer(AlignedBuffer&& other) noexcept : bytes(std::exchange(other.bytes, nullptr)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(bytes, other.bytes);
    return *this;
  }
  ~AlignedBuffer() { free(bytes); }
  std::byte* bytes = nullptr;
};

}  // namespace vireo::storage
