// SPDX-License-Identifier: Apache-2.0
// Passwords and keys: bytes that are wiped when they are not needed any more.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace vireo::storage {

class SecretBytes {
 public:
  SecretBytes() = default;
  explicit SecretBytes(size_t size) : bytes_(size) {}
  explicit SecretBytes(std::span<const std::byte> bytes) : bytes_(bytes.begin(), bytes.end()) {}
  explicit SecretBytes(const std::string& text);
  SecretBytes(const SecretBytes&) = default;
  SecretBytes(SecretBytes&& other) noexcept : bytes_(std::move(other.bytes_)) { other.bytes_.clear(); }
  SecretBytes& operator=(const SecretBytes& other) {
    if (this != &other) wipe(), bytes_ = other.bytes_;
    return *this;
  }
  SecretBytes& operator=(SecretBytes&& other) noexcept {
    if (this != &other) wipe(), bytes_.swap(other.bytes_);
    return *this;
  }
  ~SecretBytes() { wipe(); }

  size_t size() const { return bytes_.size(); }
  std::byte* data() { return bytes_.data(); }
  const std::byte* data() const { return bytes_.data(); }
  operator std::span<const std::byte>() const { return bytes_; }
  operator std::span<std::byte>() { return bytes_; }

 private:
  void wipe();
  std::vector<std::byte> bytes_;
};

// A key as a file or an option has it: its bytes as they are, a final newline among them.
Result<SecretBytes> read_secret_file(const std::string& path);
Result<SecretBytes> decode_base64(std::span<const std::byte> text);

}  // namespace vireo::storage
