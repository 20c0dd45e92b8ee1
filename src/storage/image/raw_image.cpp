// SPDX-License-Identifier: Apache-2.0
#include "storage/image/raw_image.h"

#include <algorithm>

namespace vireo::storage {

Result<> RawImage::write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) {
  return file_->zero(offset, length, may_unmap);
}

Result<> RawImage::discard(uint64_t offset, uint64_t length) {
  file_->discard(offset, length);
  return {};
}

Result<Extent> RawImage::status(uint64_t offset, uint64_t length) {
  FileExtent here = file_->extent(offset, length);
  if (here.absent) return Extent{.length = std::min(here.length, length), .allocated = true, .absent = true, .host = {}};
  return Extent{.length = std::min(here.length, length), .allocated = true, .zero = here.hole, .data = !here.hole, .host = offset, .file = file_.get()};
}

Result<> grow_file(File& file, uint64_t from, uint64_t to, Preallocation preallocation) {
  TRY_VOID(file.truncate(to));
  if (preallocation == Preallocation::kFalloc) return file.reserve(from, to - from);
  if (preallocation != Preallocation::kFull) return {};
  std::vector<std::byte> zeroes(1 << 20);
  for (uint64_t at = from; at < to; at += zeroes.size())
    TRY_VOID(file.write(at, std::span(zeroes).first(std::min<uint64_t>(zeroes.size(), to - at))));
  return file.flush();
}

Result<> RawImage::resize(uint64_t size, Preallocation preallocation) {
  uint64_t before = file_->size();
  if (size > before)
    TRY_VOID(grow_file(*file_, before, size, preallocation));
  else
    TRY_VOID(file_->truncate(size));
  size_ = size;
  return {};
}

bool RawImage::locate(uint64_t offset, uint64_t length, bool, std::vector<Segment>& out, Hold&) {
  out.push_back({file_.get(), offset, length});
  return true;
}

}  // namespace vireo::storage
