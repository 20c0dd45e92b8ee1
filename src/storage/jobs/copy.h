// SPDX-License-Identifier: Apache-2.0
// Moving a stretch of a disk from one image to another.
#pragma once

#include <vector>

#include "storage/image/image.h"

namespace vireo::storage {

// An error, and on which side.
struct CopyError {
  Error error;
  bool reading = false;
};

class Copier {
 public:
  // `zero_target`: what was never written to the target reads as zeroes.
  // `explicit_zeroes`: they are written, so that they are there even when the target gets another backing file later.
  Copier(Image& from, Image& to, bool zero_target, bool explicit_zeroes = false) : from_(from), to_(to), zero_target_(zero_target), explicit_zeroes_(explicit_zeroes) {}
  // What `from` shows at [offset, offset + length), past its end zeroes. `overwrite`: the target may hold other bytes there already.
  std::expected<void, CopyError> copy(uint64_t offset, uint64_t length, bool overwrite);
  // One cluster of the target, compressed.
  std::expected<void, CopyError> compress(uint64_t offset, uint64_t length);

 private:
  Image &from_, &to_;
  bool zero_target_, explicit_zeroes_;
  std::vector<std::byte> buffer_;
};

}  // namespace vireo::storage
