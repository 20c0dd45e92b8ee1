// SPDX-License-Identifier: Apache-2.0
// A raw image: the file's bytes are the disk's.
#pragma once

#include "storage/image/image.h"

namespace vireo::storage {

class RawImage final : public Image {
 public:
  // `driver`: what it is called where there is a protocol without a format above it.
  explicit RawImage(std::unique_ptr<File> file, std::string driver = "raw") : file_(std::move(file)), driver_(std::move(driver)), size_((file_->size() + 511) / 512 * 512) {}
  const char* format() const override { return driver_.c_str(); }
  File& file() override { return *file_; }
  uint64_t size() const override { return size_; }
  bool read_only() const override { return file_->read_only(); }
  Result<> read(uint64_t offset, std::span<const iovec> to) override { return file_->readv(offset, to); }
  Result<> write(uint64_t offset, std::span<const iovec> from) override { return file_->writev(offset, from); }
  Result<> write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  Result<> discard(uint64_t offset, uint64_t length) override;
  Result<> flush() override { return file_->flush(); }
  Result<Extent> status(uint64_t offset, uint64_t length) override;
  Result<> resize(uint64_t size, Preallocation preallocation) override;
  bool locate(uint64_t offset, uint64_t length, bool for_write, std::vector<Segment>& out, Hold& hold) override;
  using Image::read;
  using Image::write;

 private:
  std::unique_ptr<File> file_;
  std::string driver_;
  uint64_t size_;
};

// Grows a file to `size` with the new part reserved as asked (metadata means nothing here).
Result<> grow_file(File& file, uint64_t from, uint64_t to, Preallocation preallocation);

}  // namespace vireo::storage
