// SPDX-License-Identifier: Apache-2.0
// A file whose transfers fail by rule (blkdebug_rules.h). It has no descriptor, so that nothing goes past it.
#pragma once

#include "storage/file/blkdebug_rules.h"
#include "storage/file/file.h"

namespace vireo::storage {

class BlkdebugFile final : public File {
 public:
  BlkdebugFile(std::unique_ptr<File> file, std::unique_ptr<BlkdebugRules> rules, std::string name)
      : file_(std::move(file)), rules_(std::move(rules)), name_(std::move(name)) {}
  BlkdebugRules& rules() { return *rules_; }

  const std::string& name() const override { return name_; }
  std::string place() const override { return file_->place(); }
  bool read_only() const override { return file_->read_only(); }
  uint64_t size() const override { return file_->size(); }
  Result<> readv(uint64_t offset, std::span<const iovec> to) override;
  Result<> writev(uint64_t offset, std::span<const iovec> from) override;
  Result<> flush() override;
  Result<> zero(uint64_t offset, uint64_t length, bool unmap) override;
  void discard(uint64_t offset, uint64_t length) override;
  Result<> truncate(uint64_t size) override { return file_->truncate(size); }
  Result<> reserve(uint64_t offset, uint64_t length) override { return file_->reserve(offset, length); }
  FileExtent extent(uint64_t offset, uint64_t length) override { return file_->extent(offset, length); }
  uint64_t allocated() const override { return file_->allocated(); }
  bool grows() const override { return file_->grows(); }
  bool new_space_is_zero() const override { return file_->new_space_is_zero(); }
  void event(std::string_view name) override { rules_->event(name); }

 private:
  Result<> check(IoType type, uint64_t offset, uint64_t length, const char* what);

  std::unique_ptr<File> file_;
  std::unique_ptr<BlkdebugRules> rules_;
  std::string name_;
};

}  // namespace vireo::storage
