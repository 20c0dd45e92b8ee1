// SPDX-License-Identifier: Apache-2.0
#include "storage/crypto/secret_bytes.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/delay_load.h"
#include "base/owned_fd.h"

VIREO_DELAY_LOADED(crypto);

namespace vireo::storage {

SecretBytes::SecretBytes(const std::string& text) : SecretBytes(std::as_bytes(std::span(text))) {}

void SecretBytes::wipe() {
  if (!bytes_.empty()) explicit_bzero(bytes_.data(), bytes_.size());
  bytes_.clear();
}

Result<SecretBytes> read_secret_file(const std::string& path) {
  constexpr size_t kLongest = 64 << 10;
  OwnedFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return fail_errno("Unable to read " + path);
  SecretBytes all(kLongest + 1);
  size_t got = 0;
  while (got < all.size()) {
    ssize_t n = ::read(fd.get(), all.data() + got, all.size() - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("Unable to read " + path);
    if (n == 0) break;
    got += static_cast<size_t>(n);
  }
  if (got > kLongest) return fail(ErrorKind::kInvalid, path + ": too long for a key (64 KiB at most)", EFBIG);
  return SecretBytes(std::span<const std::byte>(all).first(got));
}

Result<SecretBytes> decode_base64(std::span<const std::byte> text) {
  TRY_VOID(load_library(vireo_delay_load_crypto));
  SecretBytes clean(text.size());
  size_t n = 0;
  for (std::byte b : text)
    if (b != std::byte{'\n'} && b != std::byte{'\r'} && b != std::byte{' '}) clean.data()[n++] = b;
  SecretBytes out(n / 4 * 3);
  int made = n % 4 ? -1 : EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()), reinterpret_cast<const unsigned char*>(clean.data()), static_cast<int>(n));
  if (made < 0) return fail(ErrorKind::kInvalid, "it is not base64", EINVAL);
  // The padding's bytes are counted by OpenSSL.
  for (size_t i = n; i > 0 && n - i < 2 && clean.data()[i - 1] == std::byte{'='}; --i) --made;
  return SecretBytes(std::span<const std::byte>(out).first(static_cast<size_t>(std::max(made, 0))));
}

}  // namespace vireo::storage
