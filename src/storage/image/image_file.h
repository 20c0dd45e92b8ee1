// SPDX-License-Identifier: Apache-2.0
// An image as the file of another one: a format inside of a format, or a part of a raw disk.
#pragma once

#include <mutex>
#include <shared_mutex>

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
  uint64_t size() const override {
    auto among = transfer();
    return image_->size();
  }
  Result<> readv(uint64_t offset, std::span<const iovec> to) override {
    auto among = transfer();
    return read_padded(image_.get(), offset, to);
  }
  Result<> writev(uint64_t offset, std::span<const iovec> from) override;
  Result<> flush() override { return image_->flush(); }
  Result<> zero(uint64_t offset, uint64_t length, bool unmap) override;
  void discard(uint64_t offset, uint64_t length) override;
  Result<> truncate(uint64_t size) override;
  Result<> reserve(uint64_t offset, uint64_t length) override;
  FileExtent extent(uint64_t offset, uint64_t length) override;
  uint64_t allocated() const override { return image_->file().allocated(); }
  bool new_space_is_zero() const override { return true; }

 private:
  // Transfers go on side by side; a disk changes its size while there are none. Those that come later wait behind who waits for that.
  std::shared_lock<std::shared_mutex> transfer() const {
    std::lock_guard turn(turn_);
    return std::shared_lock(size_);
  }
  Result<> grow_to(uint64_t end);
  std::shared_ptr<Image> image_;
  mutable std::mutex turn_;  // before size_
  mutable std::shared_mutex size_;
};

}  // namespace vireo::storage
