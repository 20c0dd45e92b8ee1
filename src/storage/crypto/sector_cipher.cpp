// SPDX-License-Identifier: Apache-2.0
#include "storage/crypto/sector_cipher.h"

#include <openssl/evp.h>

#include <cstring>

#include "storage/crypto/digest.h"

namespace vireo::storage {
namespace {

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* p) const { EVP_CIPHER_CTX_free(p); }
};
using ContextPointer = std::unique_ptr<EVP_CIPHER_CTX, FreeContext>;

const unsigned char* raw(const std::byte* p) { return reinterpret_cast<const unsigned char*>(p); }
unsigned char* raw(std::byte* p) { return reinterpret_cast<unsigned char*>(p); }

std::unexpected<Error> broken() { return fail(ErrorKind::kIo, "OpenSSL could not encrypt or decrypt", EIO); }

Result<ContextPointer> keyed(const EVP_CIPHER* cipher, const SecretBytes& key, bool encrypt) {
  ContextPointer context(EVP_CIPHER_CTX_new());
  if (!context || EVP_CipherInit_ex2(context.get(), cipher, raw(key.data()), nullptr, encrypt, nullptr) != 1)
    return fail(ErrorKind::kCorrupt, "OpenSSL does not take the disk's key", EINVAL);
  // Only where there is any: once it is set off, OpenSSL sets it anew with each start value, which takes as long as a part of a sector.
  const int mode = EVP_CIPHER_get_mode(cipher);
  if (mode == EVP_CIPH_CBC_MODE || mode == EVP_CIPH_ECB_MODE) EVP_CIPHER_CTX_set_padding(context.get(), 0);
  return context;
}

}  // namespace

struct SectorCipher::Context {
  ContextPointer encrypt, decrypt, iv;
};

Result<std::unique_ptr<SectorCipher>> SectorCipher::create(const CipherSpec& spec, std::span<const std::byte> key) {
  auto unsupported = [&] {
    std::string text = spec.cipher + "-" + spec.mode + (spec.ivgen.empty() ? "" : "-" + spec.ivgen) + (spec.ivgen_hash.empty() ? "" : ":" + spec.ivgen_hash);
    return fail(ErrorKind::kUnsupported, "cipher " + text + " with a key of " + std::to_string(key.size() * 8) + " bits is not supported", ENOTSUP);
  };
  const size_t length = spec.mode == "xts" ? key.size() / 2 : key.size();
  const bool known = spec.mode == "xts" || spec.mode == "cbc" || spec.mode == "ctr" || spec.mode == "ecb";
  if (spec.cipher != "aes" || !known || (length != 16 && length != 24 && length != 32)) return unsupported();
  std::unique_ptr<SectorCipher> out(new SectorCipher);
  std::string name = "AES-" + std::to_string(length * 8) + "-" + spec.mode;
  out->cipher_ = EVP_CIPHER_fetch(nullptr, name.c_str(), nullptr);
  if (!out->cipher_) return unsupported();
  out->key_ = SecretBytes(key);
  if (spec.mode == "ecb") {
    out->iv_ = Iv::kNone;
  } else if (spec.ivgen == "plain") {
    out->iv_ = Iv::kPlain;
  } else if (spec.ivgen == "plain64") {
    out->iv_ = Iv::kPlain64;
  } else if (spec.ivgen == "essiv") {
    // The key's hash is the key of a cipher that makes each sector's start from its number.
    size_t size = TRY(digest_size(spec.ivgen_hash));
    if (size != 16 && size != 24 && size != 32) return unsupported();
    out->iv_ = Iv::kEssiv;
    out->iv_key_ = SecretBytes(size);
    TRY_VOID(digest(spec.ivgen_hash, key, {}, out->iv_key_));
    out->iv_cipher_ = EVP_CIPHER_fetch(nullptr, ("AES-" + std::to_string(size * 8) + "-ECB").c_str(), nullptr);
    if (!out->iv_cipher_) return unsupported();
  } else {
    return unsupported();
  }
  out->free_.push_back(TRY(out->make()));  // a key that OpenSSL does not like is told here
  return out;
}

SectorCipher::~SectorCipher() {
  free_.clear();
  EVP_CIPHER_free(cipher_);
  EVP_CIPHER_free(iv_cipher_);
}

Result<std::unique_ptr<SectorCipher::Context>> SectorCipher::make() {
  auto context = std::make_unique<Context>();
  context->encrypt = TRY(keyed(cipher_, key_, true));
  context->decrypt = TRY(keyed(cipher_, key_, false));
  if (iv_cipher_) context->iv = TRY(keyed(iv_cipher_, iv_key_, true));
  return context;
}

Result<> SectorCipher::crypt(bool encrypt, uint64_t sector, const std::byte* in, std::byte* out, size_t length) {
  std::unique_ptr<Context> context;
  {
    std::lock_guard lock(mutex_);
    if (!free_.empty()) context = std::move(free_.back()), free_.pop_back();
  }
  if (!context) context = TRY(make());
  EVP_CIPHER_CTX* cipher = encrypt ? context->encrypt.get() : context->decrypt.get();
  bool good = length % kSector == 0;
  for (size_t done = 0; good && done < length; done += kSector, ++sector) {
    unsigned char iv[16] = {};
    uint64_t number = iv_ == Iv::kPlain ? sector & 0xffffffff : sector;
    memcpy(iv, &number, sizeof number);  // little-endian, as this machine is
    int made = 0;
    if (iv_ == Iv::kEssiv) good = EVP_CipherUpdate(context->iv.get(), iv, &made, iv, sizeof iv) == 1 && made == sizeof iv;
    good = good && EVP_CipherInit_ex2(cipher, nullptr, nullptr, iv_ == Iv::kNone ? nullptr : iv, -1, nullptr) == 1 &&
           EVP_CipherUpdate(cipher, raw(out + done), &made, raw(in + done), kSector) == 1 && made == kSector;
  }
  std::lock_guard lock(mutex_);
  free_.push_back(std::move(context));
  return good ? Result<>{} : broken();
}

}  // namespace vireo::storage
