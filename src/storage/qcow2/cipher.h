// SPDX-License-Identifier: Apache-2.0
// How the data clusters of an encrypted image are changed on their way, sector by sector.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace vireo::storage::qcow2 {

class Cipher {
 public:
  virtual ~Cipher() = default;
  // Whether a sector's number is that in the file (LUKS) or that on the disk (the legacy method).
  virtual bool numbers_host_sectors() const = 0;
  virtual void decrypt(uint64_t offset, std::span<std::byte> data) = 0;  // offset of the first sector, in bytes
  virtual void encrypt(uint64_t offset, std::span<std::byte> data) = 0;
};

}  // namespace vireo::storage::qcow2
