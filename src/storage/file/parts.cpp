// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "storage/file/file.h"

namespace vireo::storage {

uint64_t total(std::span<const iovec> parts) {
  uint64_t sum = 0;
  for (const iovec& p : parts) sum += p.iov_len;
  return sum;
}

Parts slice(std::span<const iovec> parts, uint64_t skip, uint64_t length) {
  Parts out;
  for (const iovec& p : parts) {
    if (length == 0) break;
    if (skip >= p.iov_len) {
      skip -= p.iov_len;
      continue;
    }
    size_t n = std::min<uint64_t>(p.iov_len - skip, length);
    out.push_back({static_cast<std::byte*>(p.iov_base) + skip, n});
    skip = 0;
    length -= n;
  }
  return out;
}

void fill_zero(std::span<const iovec> parts) {
  for (const iovec& p : parts) memset(p.iov_base, 0, p.iov_len);
}

void copy_from(std::span<const iovec> from, std::byte* to) {
  for (const iovec& p : from) memcpy(to, p.iov_base, p.iov_len), to += p.iov_len;
}

void copy_to(std::span<const iovec> to, const std::byte* from) {
  for (const iovec& p : to) memcpy(p.iov_base, from, p.iov_len), from += p.iov_len;
}

bool all_zero(const void* data, size_t length) {
  const char* p = static_cast<const char*>(data);
  size_t head = std::min<size_t>(length, 16);
  for (size_t i = 0; i < head; ++i)
    if (p[i]) return false;
  // The rest equals what lies 16 bytes before it, and that is zero.
  return length <= 16 || memcmp(p, p + 16, length - 16) == 0;
}

}  // namespace vireo::storage
