// SPDX-License-Identifier: Apache-2.0
#include "storage/image/image.h"

#include <algorithm>

namespace vireo::storage {

Result<> read_padded(Image* image, uint64_t offset, std::span<const iovec> to) {
  uint64_t length = total(to);
  uint64_t have = image && offset < image->size() ? std::min(length, image->size() - offset) : 0;
  if (have == length) return length ? image->read(offset, to) : Result<>{};
  if (have) {
    Parts front = slice(to, 0, have);
    TRY_VOID(image->read(offset, front));
  }
  fill_zero(slice(to, have, length - have));
  return {};
}

// A file with far fewer blocks than clusters must have entries for space that was never written. Asking the file system at
// every cluster is worth it only then.
bool Image::takes_space_ahead() {
  if (!takes_space_ahead_) {
    uint64_t cluster = std::max<uint64_t>(cluster_size(), 512), real = data_file().allocated() / cluster, all = data_file().size() / cluster;
    takes_space_ahead_ = all >= std::max(real * 10 / 9, real + 2);
  }
  return *takes_space_ahead_;
}

Result<DeepExtent> status_above(Image& top, Image* base, uint64_t offset, uint64_t length) {
  DeepExtent out;
  unsigned depth = 0;
  bool past_end = false;
  for (Image* layer = &top; layer && layer != base; layer = layer->backing(), ++depth) {
    if (offset >= layer->size()) {
      past_end = true;  // a shorter layer hides everything below it
      out.depth = depth;
      out.layer = layer;
      break;
    }
    Extent here = TRY(layer->status(offset, std::min(length, layer->size() - offset)));
    length = std::min(length, here.length);
    static_cast<Extent&>(out) = here;
    out.length = length;
    out.depth = depth;
    if (here.allocated) {
      out.layer = layer;
      if (here.data && here.host && here.file && !here.zero && layer->cluster_size() && layer->takes_space_ahead()) {
        // Space that was taken in advance reads as zeroes.
        FileExtent in_file = here.file->extent(*here.host, length);
        out.length = std::min(length, in_file.length);
        out.zero = in_file.hole;
      }
      return out;
    }
  }
  static_cast<Extent&>(out) = {};
  out.length = length;
  out.zero = !base;
  out.allocated = past_end;
  out.depth = past_end ? out.depth : 0;
  return out;
}

}  // namespace vireo::storage
