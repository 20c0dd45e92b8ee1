// SPDX-License-Identifier: Apache-2.0
#include "storage/image/compress_image.h"

#include <algorithm>

namespace vireo::storage {

Result<> CompressImage::write(uint64_t offset, std::span<const iovec> from) {
  const uint64_t unit = cluster_size(), length = total(from);
  if (offset > size() || length > size() - offset) return fail(ErrorKind::kInvalid, "write past the end of the image", EIO);
  std::vector<std::byte> cluster(unit);
  std::lock_guard lock(partial_);
  for (uint64_t done = 0; done < length;) {
    const uint64_t at = offset + done, start = at - at % unit, end = std::min(start + unit, size());
    const uint64_t piece = std::min(length - done, end - at);
    auto whole = std::span(cluster).first(end - start);
    if (piece < whole.size()) TRY_VOID(image_->read(start, whole));
    copy_from(slice(from, done, piece), whole.data() + (at - start));
    TRY_VOID(image_->write_compressed(start, whole));
    done += piece;
  }
  return {};
}

}  // namespace vireo::storage
