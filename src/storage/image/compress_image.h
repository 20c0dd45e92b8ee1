// SPDX-License-Identifier: Apache-2.0
// A filter (QEMU's driver "compress") that compresses all that is written to the format below. A write of part of a cluster takes the rest of it along.
#pragma once

#include <mutex>

#include "storage/image/filter_image.h"

namespace vireo::storage {

class CompressImage final : public FilterImage {
 public:
  // The format below must be one that compresses.
  explicit CompressImage(std::shared_ptr<Image> image) : FilterImage(std::move(image)) {}
  const char* format() const override { return "compress"; }
  using Image::write;
  Result<> write(uint64_t offset, std::span<const iovec> from) override;
  uint64_t write_unit() const override { return cluster_size(); }

 private:
  std::mutex partial_;  // writers of parts of one cluster must not lose each other's
};

}  // namespace vireo::storage
