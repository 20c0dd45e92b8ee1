// SPDX-License-Identifier: Apache-2.0
// An image as the file of another one: a format inside of a format, or a part of a raw disk.
#pragma once

#include "storage/image/image.h"

namespace vireo::storage {

class ImageFile final : public File {
 public:
  explicit ImageFile(std::shared_ptr<Image> image) : image_(std::move(image)) {}
  ~ImageFile() override { (void)image_->close(); }
  Image& image() { return *image_; }
  const std::string& name() const override { return image_->name(); }
  std::string place() const override { return image_->file().place(); }
  bool read_only() const override { return image_->read_only(); }
  uint64_t size() const override { return image_->size(); }
  Result<> readv(uint64_t offset, std::span<const iovec> to) override { return read_padded(image_.get(), offset, to); }
  Result<> writev(uint64_t offset, std::span<const iovec> from) override;
  Result<> flush() override { return image_->flush(); }
  Result<> zero(uint64_t offset, uint64_t length, bool unmap) override;
  void discard(uint64_t offset, uint64_t length) override { (void)image_->discard(offset, length); }
  Result<> truncate(uint64_t size) override { return image_->resize((size + 511) / 512 * 512, Preallocation::kOff); }
  Result<> reserve(uint64_t offset, uint64_t length) override;
  FileExtent extent(uint64_t offset, uint64_t length) override;
  uint64_t allocated() const override { return image_->file().allocated(); }
  bool new_space_is_zero() const override { return true; }

 private:
  Result<> grow_to(uint64_t end);
  std::shared_ptr<Image> image_;
};

}  // namespace vireo::storage
