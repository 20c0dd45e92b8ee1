// SPDX-License-Identifier: Apache-2.0
// A whole file mapped read-only: kernel and initrd images, kept for as long as the machine may boot again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "base/result.h"

namespace vireo {

class FileView {
 public:
  FileView() = default;
  FileView(FileView&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  FileView& operator=(FileView&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~FileView();

  // `option` is the command line's word for it, for the error.
  static Result<FileView> open(const std::string& path, const char* option);
  std::span<const std::byte> bytes() const { return bytes_; }

  // A T at `offset`, if the file reaches that far.
  template <class T>
  bool get(uint64_t offset, T& out) const {
    if (offset > bytes_.size() || sizeof(T) > bytes_.size() - offset) return false;
    memcpy(&out, bytes_.data() + offset, sizeof(T));
    return true;
  }
  std::span<const std::byte> slice(uint64_t offset, uint64_t size) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset) return {};
    return bytes_.subspan(offset, size);
  }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace vireo
