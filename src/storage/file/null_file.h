// SPDX-License-Identifier: Apache-2.0
// A file that keeps nothing (QEMU's null-co): writes are lost, reads give zeroes. For measuring what is above it.
#pragma once

#include "storage/file/file.h"

namespace vireo::storage {

class NullFile final : public File {
 public:
  // `zeroes`: it may be told that all of it reads as zeroes.
  NullFile(std::string name, uint64_t size, bool zeroes, bool read_only) : name_(std::move(name)), size_(size), zeroes_(zeroes), read_only_(read_only) {}
  const std::string& name() const override { return name_; }
  std::string place() const override { return {}; }
  bool read_only() const override { return read_only_; }
  uint64_t size() const override { return size_; }
  Result<> readv(uint64_t, std::span<const iovec> to) override { return fill_zero(to), Result<>{}; }
  Result<> writev(uint64_t, std::span<const iovec>) override { return {}; }
  Result<> flush() override { return {}; }
  Result<> zero(uint64_t, uint64_t, bool) override { return {}; }
  void discard(uint64_t, uint64_t) override {}
  Result<> truncate(uint64_t) override { return fail(ErrorKind::kUnsupported, "Image format driver does not support resize", ENOTSUP); }
  Result<> reserve(uint64_t, uint64_t) override { return {}; }
  FileExtent extent(uint64_t, uint64_t length) override { return {length, zeroes_}; }
  uint64_t allocated() const override { return 0; }
  bool grows() const override { return false; }

 private:
  std::string name_;
  uint64_t size_;
  bool zeroes_, read_only_;
};

}  // namespace vireo::storage
