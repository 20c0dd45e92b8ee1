// SPDX-License-Identifier: Apache-2.0
#include "storage/crypto/digest.h"

#include <openssl/evp.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <memory>

#include "base/delay_load.h"
#include "base/log.h"

VIREO_DELAY_LOADED(crypto);

namespace vireo::storage {
namespace {

Result<const EVP_MD*> find(const std::string& hash) {
  static constexpr std::array kKnown = {"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"};
  const EVP_MD* md = nullptr;
  if (std::ranges::find(kKnown, hash) != kKnown.end()) {
    TRY_VOID(load_library(vireo_delay_load_crypto));
    md = EVP_get_digestbyname(hash.c_str());
  }
  if (!md) return fail(ErrorKind::kUnsupported, "hash algorithm '" + hash + "' is not supported", ENOTSUP);
  return md;
}

const unsigned char* bytes(std::span<const std::byte> s) { return reinterpret_cast<const unsigned char*>(s.data()); }
unsigned char* bytes(std::span<std::byte> s) { return reinterpret_cast<unsigned char*>(s.data()); }

}  // namespace

Result<size_t> digest_size(const std::string& hash) {
  const EVP_MD* md = TRY(find(hash));
  return static_cast<size_t>(EVP_MD_get_size(md));
}

Result<> digest(const std::string& hash, std::span<const std::byte> first, std::span<const std::byte> second, std::span<std::byte> out) {
  const EVP_MD* md = TRY(find(hash));
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  if (!context || EVP_DigestInit_ex(context.get(), md, nullptr) != 1 || EVP_DigestUpdate(context.get(), first.data(), first.size()) != 1 ||
      EVP_DigestUpdate(context.get(), second.data(), second.size()) != 1 || EVP_DigestFinal_ex(context.get(), bytes(out), nullptr) != 1)
    return fail(ErrorKind::kUnsupported, "OpenSSL does not give the hash " + hash, ENOTSUP);
  return {};
}

Result<> pbkdf2(const std::string& hash, std::span<const std::byte> password, std::span<const std::byte> salt, uint32_t iterations, std::span<std::byte> out) {
  const EVP_MD* md = TRY(find(hash));
  if (iterations == 0 || iterations > INT32_MAX) return fail(ErrorKind::kInvalid, "an invalid number of PBKDF2 iterations", EINVAL);
  if (PKCS5_PBKDF2_HMAC(reinterpret_cast<const char*>(password.data()), static_cast<int>(password.size()), bytes(salt), static_cast<int>(salt.size()),
                        static_cast<int>(iterations), md, static_cast<int>(out.size()), bytes(out)) != 1)
    return fail(ErrorKind::kUnsupported, "OpenSSL does not give PBKDF2 with " + hash, ENOTSUP);
  return {};
}

Result<uint32_t> pbkdf2_iterations(const std::string& hash, size_t key_bytes, uint64_t milliseconds) {
  if (milliseconds == 0) return 1000;
  TRY(find(hash));  // what its first use takes is not measured
  SecretBytes key(key_bytes), password(std::string("password")), salt(size_t{32});
  auto now = [] {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
  };
  constexpr double kEnough = 20;  // ms: the clock is exact, and a shared machine's noise is not in it
  uint32_t iterations = 2000;
  for (;;) {
    double start = now();
    TRY_VOID(pbkdf2(hash, password, salt, iterations, key));
    double took = now() - start;
    if (took >= kEnough || iterations >= (1u << 28))
      return static_cast<uint32_t>(std::clamp(static_cast<double>(iterations) / took * static_cast<double>(milliseconds), 1000.0, 2e9));
    iterations *= took < kEnough / 8 ? 8 : 2;
  }
}

void random_bytes(std::span<std::byte> out) {
  for (size_t done = 0; done < out.size();) {
    ssize_t n = getrandom(out.data() + done, out.size() - done, 0);
    if (n < 0 && errno != EINTR) panic("getrandom: %s", strerror(errno));
    if (n > 0) done += static_cast<size_t>(n);
  }
}

}  // namespace vireo::storage
