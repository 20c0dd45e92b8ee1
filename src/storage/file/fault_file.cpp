// SPDX-License-Identifier: Apache-2.0
#include "storage/file/fault_file.h"

#include <algorithm>
#include <cstring>

namespace vireo::storage {

uint64_t FaultFile::size() const {
  std::lock_guard lock(mutex_);
  return size_;
}

Result<> FaultFile::read_sector(uint64_t number, Sector& to) {
  if (auto found = cache_.find(number); found != cache_.end()) {
    to = found->second;
    return {};
  }
  return file_->read(number * kSector, to);
}

Result<> FaultFile::readv(uint64_t offset, std::span<const iovec> to) {
  std::lock_guard lock(mutex_);
  TRY_VOID(file_->readv(offset, to));
  const uint64_t length = total(to);
  if (cache_.empty() || length == 0) return {};
  for (uint64_t n = offset / kSector; n <= (offset + length - 1) / kSector; ++n) {
    auto found = cache_.find(n);
    if (found == cache_.end()) continue;
    uint64_t from = std::max(offset, n * kSector), until = std::min(offset + length, (n + 1) * kSector);
    copy_to(slice(to, from - offset, until - from), found->second.data() + from % kSector);
  }
  return {};
}

Result<> FaultFile::writev(uint64_t offset, std::span<const iovec> from) {
  std::lock_guard lock(mutex_);
  const uint64_t length = total(from);
  if (length == 0) return {};
  bool early = false;
  uint64_t whole_until = 0;
  for (uint64_t n = offset / kSector; n <= (offset + length - 1) / kSector; ++n) {
    uint64_t start = std::max(offset, n * kSector), until = std::min(offset + length, (n + 1) * kSector);
    if (n >= whole_until) {
      early = random_() % 100 < early_;
      const bool whole = n % kBlock == 0 && start == n * kSector && (n + kBlock) * kSector <= offset + length;
      whole_until = whole ? n + kBlock : n + 1;
    }
    Sector now{};
    if (until - start < kSector) TRY_VOID(read_sector(n, now));
    copy_from(slice(from, start - offset, until - start), now.data() + start % kSector);
    if (early) {
      TRY_VOID(file_->write(n * kSector, std::span<const std::byte>(now)));
      cache_.erase(n);
    } else {
      cache_[n] = now;
    }
  }
  size_ = std::max(size_, offset + length);
  return {};
}

Result<> FaultFile::flush() {
  std::lock_guard lock(mutex_);
  std::vector<uint64_t> order;
  for (auto& [n, sector] : cache_) order.push_back(n);
  std::ranges::sort(order);
  for (uint64_t n : order) TRY_VOID(file_->write(n * kSector, std::span<const std::byte>(cache_[n])));
  cache_.clear();
  if (file_->size() > size_ && file_->grows()) TRY_VOID(file_->truncate(size_));
  return file_->flush();
}

// Whole sectors of the range; the ones at its ends stay.
void FaultFile::forget(uint64_t offset, uint64_t length) {
  for (uint64_t n = (offset + kSector - 1) / kSector; (n + 1) * kSector <= offset + length; ++n) cache_.erase(n);
}

Result<> FaultFile::zero(uint64_t offset, uint64_t length, bool unmap) {
  {
    std::lock_guard lock(mutex_);
    length = offset < size_ ? std::min(length, size_ - offset) : 0;
    if (length == 0) return {};
    if (offset % kSector == 0 && length % kSector == 0) {
      forget(offset, length);
      return file_->zero(offset, length, unmap);
    }
  }
  std::vector<std::byte> zeroes(length);
  return write(offset, zeroes);
}

void FaultFile::discard(uint64_t offset, uint64_t length) {
  std::lock_guard lock(mutex_);
  forget(offset, length);
  file_->discard(offset, length);
}

Result<> FaultFile::truncate(uint64_t size) {
  std::lock_guard lock(mutex_);
  if (size < size_) std::erase_if(cache_, [&](auto& entry) { return entry.first * kSector >= size; });
  size_ = size;
  return file_->truncate(size);
}

Result<> FaultFile::reserve(uint64_t offset, uint64_t length) {
  std::lock_guard lock(mutex_);
  size_ = std::max(size_, offset + length);
  return file_->reserve(offset, length);
}

// Everything counts as data: the file's holes may be filled in the cache.
FileExtent FaultFile::extent(uint64_t, uint64_t length) { return {length, false}; }

}  // namespace vireo::storage
