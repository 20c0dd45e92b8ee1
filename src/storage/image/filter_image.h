// SPDX-License-Identifier: Apache-2.0
// What lies above a format and changes some of its calls; the others go on to it as they are. Nothing is located or read past a filter.
#pragma once

#include "storage/image/image.h"

namespace vireo::storage {

class FilterImage : public Image {
 public:
  explicit FilterImage(std::shared_ptr<Image> image) : image_(std::move(image)) {}
  Image& filtered() { return *image_; }

  File& file() override { return image_->file(); }
  File& data_file() override { return image_->data_file(); }
  uint64_t size() const override { return image_->size(); }
  bool read_only() const override { return image_->read_only(); }
  uint64_t cluster_size() const override { return image_->cluster_size(); }
  uint64_t write_unit() const override { return image_->write_unit(); }
  Image* backing() override { return image_->backing(); }
  void set_backing(std::shared_ptr<Image> backing) override { image_->set_backing(std::move(backing)); }
  using Image::read;
  using Image::write;
  Result<> read(uint64_t offset, std::span<const iovec> to) override { return image_->read(offset, to); }
  Result<> write(uint64_t offset, std::span<const iovec> from) override { return image_->write(offset, from); }
  Result<> write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) override { return image_->write_zeroes(offset, length, may_unmap); }
  Result<> write_compressed(uint64_t offset, std::span<const std::byte> data) override { return image_->write_compressed(offset, data); }
  Result<> discard(uint64_t offset, uint64_t length) override { return image_->discard(offset, length); }
  Result<> flush() override { return image_->flush(); }
  Result<Extent> status(uint64_t offset, uint64_t length) override { return image_->status(offset, length); }
  Result<> resize(uint64_t size, Preallocation preallocation) override { return image_->resize(size, preallocation); }
  Result<> close() override { return image_->close(); }

 protected:
  std::shared_ptr<Image> image_;
};

}  // namespace vireo::storage
