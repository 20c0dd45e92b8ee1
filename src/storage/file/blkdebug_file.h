// SPDX-License-Identifier: Apache-2.0
// A file whose transfers fail by rule (blkdebug_rules.h).
#pragma once

#include "storage/file/blkdebug_rules.h"
#include "storage/file/filter_file.h"

namespace vireo::storage {

class BlkdebugFile final : public FilterFile {
 public:
  BlkdebugFile(std::unique_ptr<File> file, std::unique_ptr<BlkdebugRules> rules, std::string name)
      : FilterFile(std::move(file)), rules_(std::move(rules)), name_(std::move(name)) {}
  BlkdebugRules& rules() { return *rules_; }

  const std::string& name() const override { return name_; }
  Result<> readv(uint64_t offset, std::span<const iovec> to) override;
  Result<> writev(uint64_t offset, std::span<const iovec> from) override;
  Result<> flush() override;
  Result<> zero(uint64_t offset, uint64_t length, bool unmap) override;
  void discard(uint64_t offset, uint64_t length) override;
  void event(std::string_view name) override { rules_->event(name); }

 private:
  Result<> check(IoType type, uint64_t offset, uint64_t length, const char* what);

  std::unique_ptr<BlkdebugRules> rules_;
  std::string name_;
};

}  // namespace vireo::storage
