// SPDX-License-Identifier: Apache-2.0
// SHA-256, for parts that do not link OpenSSL. Spec: FIPS 180-4, 6.2; Intel SDM vol 2, SHA256RNDS2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace vireo {

using Sha256Digest = std::array<uint8_t, 32>;

class Sha256 {
 public:
  void add(std::span<const uint8_t> bytes);
  void add(const void* bytes, size_t size) { add({static_cast<const uint8_t*>(bytes), size}); }
  Sha256Digest digest();  // of all that was added; the object is used up

 private:
  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t block_[64];
  uint64_t size_ = 0;
};

// Which way the blocks go, for tests: by the CPU's instructions where it has them.
bool sha256_uses_instructions();
void sha256_blocks_plain(uint32_t state[8], const uint8_t* blocks, size_t count);

}  // namespace vireo
