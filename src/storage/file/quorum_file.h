// SPDX-License-Identifier: Apache-2.0
// One file in several copies (QEMU's driver "quorum"): what enough of them agree on is read; a write that enough of them took is done. All
// have one length, which does not change. It lies in no one place, and has no descriptor, so that nothing goes past the vote.
#pragma once

#include "storage/file/file.h"

namespace vireo::storage {

class QuorumFile final : public File {
 public:
  // `threshold`: how many make enough. `first`: reads take the first copy that can be read, without a vote.
  static Result<std::unique_ptr<QuorumFile>> create(std::vector<std::unique_ptr<File>> copies, size_t threshold, bool first, std::string name);

  const std::string& name() const override { return name_; }
  std::string place() const override { return {}; }
  bool read_only() const override;
  uint64_t size() const override { return copies_[0]->size(); }
  Result<> readv(uint64_t offset, std::span<const iovec> to) override;
  Result<> writev(uint64_t offset, std::span<const iovec> from) override;
  Result<> flush() override;
  Result<> zero(uint64_t offset, uint64_t length, bool unmap) override;
  void discard(uint64_t offset, uint64_t length) override;
  Result<> truncate(uint64_t size) override;
  Result<> reserve(uint64_t offset, uint64_t length) override;
  FileExtent extent(uint64_t offset, uint64_t length) override;
  uint64_t allocated() const override;
  bool grows() const override { return false; }
  bool new_space_is_zero() const override { return false; }

 private:
  QuorumFile(std::vector<std::unique_ptr<File>> copies, size_t threshold, bool first, std::string name)
      : copies_(std::move(copies)), threshold_(threshold), first_(first), name_(std::move(name)) {}
  template <typename Act>
  Result<> vote(Act act);

  std::vector<std::unique_ptr<File>> copies_;
  size_t threshold_;
  bool first_;
  std::string name_;
};

}  // namespace vireo::storage
