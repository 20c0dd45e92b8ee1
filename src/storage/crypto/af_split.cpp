// SPDX-License-Identifier: Apache-2.0
#include "storage/crypto/af_split.h"

#include <algorithm>

namespace vireo::storage {
namespace {

void exclusive_or(std::span<std::byte> to, const std::byte* with) {
  for (size_t i = 0; i < to.size(); ++i) to[i] ^= with[i];
}

// Each piece as long as the hash is replaced by its hash under its number; the last one may be shorter.
Result<> diffuse(const std::string& hash, std::span<std::byte> block) {
  size_t size = TRY(digest_size(hash));
  SecretBytes out(size);
  for (size_t at = 0, number = 0; at < block.size(); at += size, ++number) {
    std::byte prefix[4] = {std::byte(number >> 24), std::byte(number >> 16), std::byte(number >> 8), std::byte(number)};
    auto piece = block.subspan(at, std::min(size, block.size() - at));
    TRY_VOID(digest(hash, prefix, piece, out));
    std::copy_n(out.data(), piece.size(), piece.begin());
  }
  return {};
}

// All stripes but the last, mixed one after the other.
Result<SecretBytes> mix(const std::string& hash, std::span<const std::byte> material, size_t key, unsigned stripes) {
  SecretBytes mixed(key);
  for (unsigned i = 0; i + 1 < stripes; ++i) {
    exclusive_or(mixed, material.data() + i * key);
    TRY_VOID(diffuse(hash, mixed));
  }
  return mixed;
}

}  // namespace

Result<SecretBytes> af_split(const std::string& hash, std::span<const std::byte> key, unsigned stripes) {
  SecretBytes out(key.size() * stripes);
  std::span<std::byte> all = out;
  random_bytes(all.first(key.size() * (stripes - 1)));
  SecretBytes mixed = TRY(mix(hash, out, key.size(), stripes));
  auto last = all.last(key.size());
  std::ranges::copy(key, last.begin());
  exclusive_or(last, mixed.data());
  return out;
}

Result<SecretBytes> af_merge(const std::string& hash, std::span<const std::byte> material, unsigned stripes) {
  size_t key = material.size() / stripes;
  SecretBytes out = TRY(mix(hash, material, key, stripes));
  exclusive_or(out, material.data() + (stripes - 1) * key);
  return out;
}

}  // namespace vireo::storage
