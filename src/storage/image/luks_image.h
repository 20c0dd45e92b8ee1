// SPDX-License-Identifier: Apache-2.0
// A LUKS1 volume in a file: header and key material, then the disk's sectors, encrypted one by one.
#pragma once

#include "storage/crypto/luks.h"
#include "storage/image/image.h"

namespace vireo::storage {

class LuksImage final : public Image {
 public:
  // Without a password the volume can be described, but not read or written.
  static Result<std::unique_ptr<LuksImage>> open(std::unique_ptr<File> file, const std::optional<SecretBytes>& password);
  // Takes the file as empty; its disk will have `size` bytes.
  static Result<> create(File& file, uint64_t size, const LuksOptions& options, const SecretBytes& password, Preallocation preallocation);

  const char* format() const override { return "luks"; }
  File& file() override { return *file_; }
  uint64_t size() const override { return size_; }
  bool read_only() const override { return file_->read_only(); }
  Luks& luks() { return luks_; }

  Result<> read(uint64_t offset, std::span<const iovec> to) override;
  Result<> write(uint64_t offset, std::span<const iovec> from) override;
  Result<> write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  // Nothing: which sectors are in use would be seen from outside.
  Result<> discard(uint64_t offset, uint64_t length) override { return {}; }
  Result<> flush() override { return file_->flush(); }
  Result<Extent> status(uint64_t offset, uint64_t length) override;
  Result<> resize(uint64_t size, Preallocation preallocation) override;
  using Image::read;
  using Image::write;

 private:
  LuksImage(std::unique_ptr<File> file, Luks luks) : file_(std::move(file)), luks_(std::move(luks)) {}
  uint64_t payload() const { return uint64_t{luks_.header().payload} * 512; }
  Result<> check(uint64_t offset, uint64_t length) const;

  std::unique_ptr<File> file_;
  Luks luks_;
  std::unique_ptr<SectorCipher> cipher_;
  uint64_t size_ = 0;
  std::mutex partial_;  // writers of less than a sector
};

}  // namespace vireo::storage
