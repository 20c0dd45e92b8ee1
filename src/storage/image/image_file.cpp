// SPDX-License-Identifier: Apache-2.0
#include "storage/image/image_file.h"

#include <algorithm>

namespace vireo::storage {

// A file grows by being written; a disk must be made larger.
Result<> ImageFile::grow_to(uint64_t end) {
  if (end <= image_->size()) return {};
  return image_->resize((end + 511) / 512 * 512, Preallocation::kOff);
}

Result<> ImageFile::writev(uint64_t offset, std::span<const iovec> from) {
  TRY_VOID(grow_to(offset + total(from)));
  return image_->write(offset, from);
}

Result<> ImageFile::zero(uint64_t offset, uint64_t length, bool unmap) {
  length = offset < image_->size() ? std::min(length, image_->size() - offset) : 0;
  return length ? image_->write_zeroes(offset, length, unmap) : Result<>{};
}

Result<> ImageFile::reserve(uint64_t offset, uint64_t length) { return grow_to(offset + length); }

FileExtent ImageFile::extent(uint64_t offset, uint64_t length) {
  if (offset >= image_->size()) return {length, true};
  auto here = status_above(*image_, nullptr, offset, std::min(length, image_->size() - offset));
  if (!here) return {length, false};
  return {here->length, here->zero};
}

}  // namespace vireo::storage
