// SPDX-License-Identifier: Apache-2.0
// A file in memory, for tests: it can fail when told, and keeps what a power cut would leave. Writes since the last flush
// are a list of sectors; crash() applies any subset of them in any order that keeps each sector's own history.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <random>

#include "storage/file/file.h"

namespace vireo::storage {

class MemoryFile final : public File {
 public:
  static constexpr uint64_t kSector = 512;
  enum class Op { kRead, kWrite, kFlush, kZero, kDiscard, kTruncate };

  explicit MemoryFile(std::string name = "memory") : name_(std::move(name)) {}
  // A call that returns an errno value makes the operation fail without effect.
  std::function<int(Op, uint64_t offset, uint64_t length)> fault;
  std::function<void()> on_change;  // before each call that changes the file or makes changes stable
  bool reserves_ahead = false;
  bool keep_history = false;  // record what crash() needs

  // The file as a power cut now would leave it: each sector has one of the contents it had since the last flush that
  // covered it, picked by `random`; `keep` in 0..100 is how likely a newer one is taken.
  std::unique_ptr<MemoryFile> crash(std::mt19937_64& random, unsigned keep) const;
  std::unique_ptr<MemoryFile> copy() const;
  uint64_t writes() const { return writes_; }
  std::vector<std::byte>& bytes() { return bytes_; }

  const std::string& name() const override { return name_; }
  bool read_only() const override { return read_only_; }
  void set_read_only(bool value) { read_only_ = value; }
  uint64_t size() const override;
  Result<> readv(uint64_t offset, std::span<const iovec> to) override;
  Result<> writev(uint64_t offset, std::span<const iovec> from) override;
  Result<> flush() override;
  Result<> zero(uint64_t offset, uint64_t length, bool unmap) override;
  void discard(uint64_t offset, uint64_t length) override;
  Result<> truncate(uint64_t size) override;
  Result<> reserve(uint64_t offset, uint64_t length) override;
  bool reserve_ahead(uint64_t offset, uint64_t length) override { return reserves_ahead && truncate(offset + length).has_value(); }
  FileExtent extent(uint64_t offset, uint64_t length) override;

 private:
  Result<> check(Op op, uint64_t offset, uint64_t length);
  void put(uint64_t offset, const std::byte* from, uint64_t length);

  std::string name_;
  bool read_only_ = false;
  mutable std::mutex mutex_;
  std::vector<std::byte> bytes_;
  uint64_t writes_ = 0;
  // Contents that sectors had since the last flush, oldest first; the newest is in bytes_.
  std::map<uint64_t, std::vector<std::vector<std::byte>>> older_;
};

}  // namespace vireo::storage
