// SPDX-License-Identifier: Apache-2.0
// What lies above a file and changes some of its calls; the others go on to it as they are. It has no descriptor, so that nothing goes past it.
#pragma once

#include "storage/file/file.h"

namespace vireo::storage {

class FilterFile : public File {
 public:
  explicit FilterFile(std::unique_ptr<File> file) : file_(std::move(file)) {}

  const std::string& name() const override { return file_->name(); }
  std::string place() const override { return file_->place(); }
  bool read_only() const override { return file_->read_only(); }
  uint64_t size() const override { return file_->size(); }
  Result<> readv(uint64_t offset, std::span<const iovec> to) override { return file_->readv(offset, to); }
  Result<> writev(uint64_t offset, std::span<const iovec> from) override { return file_->writev(offset, from); }
  Result<> flush() override { return file_->flush(); }
  Result<> zero(uint64_t offset, uint64_t length, bool unmap) override { return file_->zero(offset, length, unmap); }
  void discard(uint64_t offset, uint64_t length) override { file_->discard(offset, length); }
  Result<> truncate(uint64_t size) override { return file_->truncate(size); }
  Result<> reserve(uint64_t offset, uint64_t length) override { return file_->reserve(offset, length); }
  FileExtent extent(uint64_t offset, uint64_t length) override { return file_->extent(offset, length); }
  uint64_t allocated() const override { return file_->allocated(); }
  bool grows() const override { return file_->grows(); }
  bool new_space_is_zero() const override { return file_->new_space_is_zero(); }

 protected:
  std::unique_ptr<File> file_;
};

}  // namespace vireo::storage
