// SPDX-License-Identifier: Apache-2.0
#include "storage/image/image_file.h"

#include <algorithm>

namespace vireo::storage {

// A file grows by being written; a disk must be made larger. Another one may have done so meanwhile, and further.
Result<> ImageFile::grow_to(uint64_t end) {
  std::lock_guard turn(turn_);
  std::lock_guard alone(size_);
  if (end <= image_->size()) return {};
  return image_->resize((end + 511) / 512 * 512, Preallocation::kOff);
}

Result<> ImageFile::truncate(uint64_t size) {
  std::lock_guard turn(turn_);
  std::lock_guard alone(size_);
  return image_->resize((size + 511) / 512 * 512, Preallocation::kOff);
}

Result<> ImageFile::writev(uint64_t offset, std::span<const iovec> from) {
  const uint64_t end = offset + total(from);
  for (;;) {
    {
      auto among = transfer();
      if (end <= image_->size()) return image_->write(offset, from);
    }
    TRY_VOID(grow_to(end));
  }
}

Result<> ImageFile::zero(uint64_t offset, uint64_t length, bool unmap) {
  auto among = transfer();
  length = offset < image_->size() ? std::min(length, image_->size() - offset) : 0;
  return length ? image_->write_zeroes(offset, length, unmap) : Result<>{};
}

void ImageFile::discard(uint64_t offset, uint64_t length) {
  auto among = transfer();
  (void)image_->discard(offset, length);
}

Result<> ImageFile::reserve(uint64_t offset, uint64_t length) { return grow_to(offset + length); }

FileExtent ImageFile::extent(uint64_t offset, uint64_t length) {
  auto among = transfer();
  if (offset >= image_->size()) return {length, true};
  auto here = status_above(*image_, nullptr, offset, std::min(length, image_->size() - offset));
  if (!here) return {length, false};
  return {here->length, here->zero};
}

}  // namespace vireo::storage
