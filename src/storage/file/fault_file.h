// SPDX-License-Identifier: Apache-2.0
// A disk with a volatile cache that a test can lose: what is written stays in memory until a flush, except for sectors that go
// to the file at once, picked at random, as a disk is free to do. So a process that is killed leaves the file as a power cut
// leaves a disk: everything flushed is there, of the rest any subset, torn at 512 bytes and out of order. Only an aligned block of
// 4096 bytes that is written whole stays whole: a guest's file system relies on that (ext4's superblock has two sectors
// and one checksum), and disks keep to it.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <random>
#include <unordered_map>

#include "storage/file/filter_file.h"

namespace vireo::storage {

class FaultFile final : public FilterFile {
 public:
  static constexpr uint64_t kSector = 512, kBlock = 8;  // sectors of a block
  // `early`: percent of what that are written at once.
  FaultFile(std::unique_ptr<File> file, uint64_t seed, unsigned early) : FilterFile(std::move(file)), random_(seed), early_(early), size_(file_->size()) {}

  uint64_t size() const override;
  Result<> readv(uint64_t offset, std::span<const iovec> to) override;
  Result<> writev(uint64_t offset, std::span<const iovec> from) override;
  Result<> flush() override;
  // These take effect at once, which is the soonest that they may.
  Result<> zero(uint64_t offset, uint64_t length, bool unmap) override;
  void discard(uint64_t offset, uint64_t length) override;
  Result<> truncate(uint64_t size) override;
  Result<> reserve(uint64_t offset, uint64_t length) override;
  FileExtent extent(uint64_t offset, uint64_t length) override;

 private:
  using Sector = std::array<std::byte, kSector>;
  Result<> read_sector(uint64_t number, Sector& to);
  void forget(uint64_t offset, uint64_t length);

  mutable std::mutex mutex_;
  std::mt19937_64 random_;
  unsigned early_;
  uint64_t size_;  // with what is in the cache
  std::unordered_map<uint64_t, Sector> cache_;
};

}  // namespace vireo::storage
