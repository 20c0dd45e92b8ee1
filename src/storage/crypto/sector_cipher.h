// SPDX-License-Identifier: Apache-2.0
// What changes the sectors of an encrypted disk on their way, 512 bytes at a time, each with its number as the start of its
// cipher chain. Ciphers are told as Linux tells them ("aes" in "xts-plain64"). Any thread may call.
// The ciphers are libgcrypt's: a sector of XTS takes half of the time that it takes by OpenSSL 3.0's (docs/libraries.md).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "storage/crypto/secret_bytes.h"

namespace vireo::storage {

struct CipherSpec {
  std::string cipher = "aes";     // aes, serpent, twofish, cast5: without the key's length
  std::string mode = "xts";       // xts, cbc, ctr, ecb
  std::string ivgen = "plain64";  // plain, plain64, essiv; empty with ecb
  std::string ivgen_hash;         // of essiv
};

class SectorCipher {
 public:
  static constexpr uint64_t kSector = 512;
  static Result<std::unique_ptr<SectorCipher>> create(const CipherSpec& spec, std::span<const std::byte> key);
  ~SectorCipher();
  SectorCipher(const SectorCipher&) = delete;
  SectorCipher& operator=(const SectorCipher&) = delete;

  // Whole sectors, the first of them with this number; `in` and `out` are the same or do not overlap.
  Result<> encrypt(uint64_t sector, const std::byte* in, std::byte* out, size_t length) { return crypt(true, sector, in, out, length); }
  Result<> decrypt(uint64_t sector, const std::byte* in, std::byte* out, size_t length) { return crypt(false, sector, in, out, length); }

 private:
  enum class Iv { kNone, kPlain, kPlain64, kEssiv };
  // Handles with the keys set, used by one thread at a time.
  struct Context;

  SectorCipher();
  Result<std::unique_ptr<Context>> make();
  Result<> crypt(bool encrypt, uint64_t sector, const std::byte* in, std::byte* out, size_t length);

  // libgcrypt's numbers.
  int cipher_ = 0, mode_ = 0, iv_cipher_ = 0;
  size_t block_ = 0;  // bytes of a cipher block and of a chain's start
  Iv iv_ = Iv::kNone;
  SecretBytes key_, iv_key_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Context>> free_;
};

}  // namespace vireo::storage
