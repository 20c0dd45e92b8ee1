// SPDX-License-Identifier: Apache-2.0
#include "storage/file/memory_file.h"

#include <algorithm>
#include <cstring>

namespace vireo::storage {

Result<> MemoryFile::check(Op op, uint64_t offset, uint64_t length) {
  if (!fault) return {};
  if (int code = fault(op, offset, length)) return fail_errno("'" + name_ + "'", code);
  return {};
}

uint64_t MemoryFile::size() const {
  std::lock_guard lock(mutex_);
  return bytes_.size();
}

Result<> MemoryFile::readv(uint64_t offset, std::span<const iovec> to) {
  std::lock_guard lock(mutex_);
  TRY_VOID(check(Op::kRead, offset, total(to)));
  for (const iovec& p : to) {
    if (p.iov_len == 0) continue;  // its base may be null
    uint64_t have = offset < bytes_.size() ? std::min<uint64_t>(p.iov_len, bytes_.size() - offset) : 0;
    if (have) memcpy(p.iov_base, bytes_.data() + offset, have);
    memset(static_cast<std::byte*>(p.iov_base) + have, 0, p.iov_len - have);
    offset += p.iov_len;
  }
  return {};
}

void MemoryFile::put(uint64_t offset, const std::byte* from, uint64_t length) {
  if (length == 0) return;
  if (offset + length > bytes_.size()) bytes_.resize(offset + length);
  if (keep_history) {
    for (uint64_t sector = offset / kSector; sector <= (offset + length - 1) / kSector; ++sector) {
      std::vector<std::byte> before(kSector);
      uint64_t at = sector * kSector;
      memcpy(before.data(), bytes_.data() + at, std::min<uint64_t>(kSector, bytes_.size() - at));
      older_[sector].push_back(std::move(before));
    }
  }
  from ? memcpy(bytes_.data() + offset, from, length) : memset(bytes_.data() + offset, 0, length);
}

Result<> MemoryFile::writev(uint64_t offset, std::span<const iovec> from) {
  if (on_change) on_change();
  std::lock_guard lock(mutex_);
  TRY_VOID(check(Op::kWrite, offset, total(from)));
  ++writes_;
  for (const iovec& p : from) {
    put(offset, static_cast<const std::byte*>(p.iov_base), p.iov_len);
    offset += p.iov_len;
  }
  return {};
}

Result<> MemoryFile::flush() {
  if (on_change) on_change();
  std::lock_guard lock(mutex_);
  TRY_VOID(check(Op::kFlush, 0, 0));
  older_.clear();
  return {};
}

Result<> MemoryFile::zero(uint64_t offset, uint64_t length, bool) {
  if (on_change) on_change();
  std::lock_guard lock(mutex_);
  TRY_VOID(check(Op::kZero, offset, length));
  ++writes_;
  if (offset < bytes_.size()) put(offset, nullptr, std::min<uint64_t>(length, bytes_.size() - offset));
  return {};
}

void MemoryFile::discard(uint64_t offset, uint64_t length) {
  if (on_change) on_change();
  std::lock_guard lock(mutex_);
  if (!check(Op::kDiscard, offset, length)) return;
  ++writes_;
  if (offset < bytes_.size()) put(offset, nullptr, std::min<uint64_t>(length, bytes_.size() - offset));
}

Result<> MemoryFile::truncate(uint64_t size) {
  if (on_change) on_change();
  std::lock_guard lock(mutex_);
  TRY_VOID(check(Op::kTruncate, size, 0));
  bytes_.resize(size);  // taken as durable at once: file systems journal it
  older_.erase(older_.lower_bound((size + kSector - 1) / kSector), older_.end());
  return {};
}

Result<> MemoryFile::reserve(uint64_t offset, uint64_t length) {
  std::lock_guard lock(mutex_);
  if (offset + length > bytes_.size()) bytes_.resize(offset + length);
  return {};
}

FileExtent MemoryFile::extent(uint64_t offset, uint64_t length) {
  std::lock_guard lock(mutex_);
  return {length, offset >= bytes_.size()};
}

std::unique_ptr<MemoryFile> MemoryFile::copy() const {
  std::lock_guard lock(mutex_);
  auto out = std::make_unique<MemoryFile>(name_);
  out->bytes_ = bytes_;
  return out;
}

std::unique_ptr<MemoryFile> MemoryFile::crash(std::mt19937_64& random, unsigned keep) const {
  auto out = copy();
  std::lock_guard lock(mutex_);
  for (auto& [sector, contents] : older_) {
    if (random() % 100 < keep) continue;
    uint64_t at = sector * kSector;
    if (at >= out->bytes_.size()) continue;
    const auto& pick = contents[random() % contents.size()];
    memcpy(out->bytes_.data() + at, pick.data(), std::min<uint64_t>(kSector, out->bytes_.size() - at));
  }
  return out;
}

}  // namespace vireo::storage
