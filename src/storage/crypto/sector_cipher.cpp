// SPDX-License-Identifier: Apache-2.0
#include "storage/crypto/sector_cipher.h"

#include <gcrypt.h>

#include <cstring>
#include <mutex>

#include "base/delay_load.h"
#include "storage/crypto/digest.h"

VIREO_DELAY_LOADED(gcrypt);

namespace vireo::storage {
namespace {

struct Close {
  void operator()(gcry_cipher_hd_t p) const { gcry_cipher_close(p); }
};
using Handle = std::unique_ptr<gcry_cipher_handle, Close>;

struct Algorithm {
  const char* name;
  size_t key_bytes;
  int number;
};
constexpr Algorithm kAlgorithms[] = {
    {"aes", 16, GCRY_CIPHER_AES128},         {"aes", 24, GCRY_CIPHER_AES192},         {"aes", 32, GCRY_CIPHER_AES256},         {"serpent", 16, GCRY_CIPHER_SERPENT128},
    {"serpent", 24, GCRY_CIPHER_SERPENT192}, {"serpent", 32, GCRY_CIPHER_SERPENT256}, {"twofish", 16, GCRY_CIPHER_TWOFISH128}, {"twofish", 32, GCRY_CIPHER_TWOFISH},
    {"cast5", 16, GCRY_CIPHER_CAST5},
};

// libgcrypt's number, 0 for what is not there.
int find(const std::string& cipher, size_t key_bytes) {
  for (const Algorithm& a : kAlgorithms)
    if (cipher == a.name && key_bytes == a.key_bytes) return a.number;
  return 0;
}

int find_mode(const std::string& mode) {
  return mode == "xts" ? GCRY_CIPHER_MODE_XTS : mode == "cbc" ? GCRY_CIPHER_MODE_CBC : mode == "ctr" ? GCRY_CIPHER_MODE_CTR : mode == "ecb" ? GCRY_CIPHER_MODE_ECB : GCRY_CIPHER_MODE_NONE;
}

// Its first call has to be this one, before other threads use it. Keys lie in ordinary memory here as elsewhere in this program.
void prepare() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P)) return;
    gcry_check_version(nullptr);
    gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
    gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  });
}

Result<Handle> keyed(int cipher, int mode, const SecretBytes& key) {
  gcry_cipher_hd_t handle = nullptr;
  gcry_error_t e = gcry_cipher_open(&handle, cipher, mode, 0);
  Handle out(handle);
  if (!e) e = gcry_cipher_setkey(handle, key.data(), key.size());
  if (e) return fail(ErrorKind::kCorrupt, std::string("the cipher does not take the disk's key: ") + gcry_strerror(e), EINVAL);
  return out;
}

}  // namespace

struct SectorCipher::Context {
  Handle data, iv;
};

SectorCipher::SectorCipher() = default;
SectorCipher::~SectorCipher() = default;

Result<std::unique_ptr<SectorCipher>> SectorCipher::create(const CipherSpec& spec, std::span<const std::byte> key) {
  auto unsupported = [&] {
    std::string text = spec.cipher + "-" + spec.mode + (spec.ivgen.empty() ? "" : "-" + spec.ivgen) + (spec.ivgen_hash.empty() ? "" : ":" + spec.ivgen_hash);
    return fail(ErrorKind::kUnsupported, "cipher " + text + " with a key of " + std::to_string(key.size() * 8) + " bits is not supported", ENOTSUP);
  };
  TRY_VOID(load_library(vireo_delay_load_gcrypt));
  prepare();
  std::unique_ptr<SectorCipher> out(new SectorCipher);
  const bool xts = spec.mode == "xts";
  out->cipher_ = find(spec.cipher, xts ? key.size() / 2 : key.size());
  out->mode_ = find_mode(spec.mode);
  if (!out->cipher_ || out->mode_ == GCRY_CIPHER_MODE_NONE) return unsupported();
  out->block_ = gcry_cipher_get_algo_blklen(out->cipher_);
  // XTS is made for blocks of 16 bytes. (IEEE 1619 has keys of twice 128 and 256 bits; QEMU makes volumes with twice 192 too.)
  if (xts && out->block_ != 16) return unsupported();
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
    out->iv_cipher_ = find(spec.cipher, size);
    if (!out->iv_cipher_) return unsupported();
    out->iv_ = Iv::kEssiv;
    out->iv_key_ = SecretBytes(size);
    TRY_VOID(digest(spec.ivgen_hash, key, {}, out->iv_key_));
  } else {
    return unsupported();
  }
  out->free_.push_back(TRY(out->make()));  // a key that the library does not like is told here
  return out;
}

Result<std::unique_ptr<SectorCipher::Context>> SectorCipher::make() {
  auto context = std::make_unique<Context>();
  context->data = TRY(keyed(cipher_, mode_, key_));
  if (iv_cipher_) context->iv = TRY(keyed(iv_cipher_, GCRY_CIPHER_MODE_ECB, iv_key_));
  return context;
}

Result<> SectorCipher::crypt(bool encrypt, uint64_t sector, const std::byte* in, std::byte* out, size_t length) {
  if (length % kSector) return fail(ErrorKind::kInvalid, "a part of a sector cannot be encrypted or decrypted", EINVAL);
  std::unique_ptr<Context> context;
  {
    std::lock_guard lock(mutex_);
    if (!free_.empty()) context = std::move(free_.back()), free_.pop_back();
  }
  if (!context) context = TRY(make());
  gcry_cipher_hd_t cipher = context->data.get();
  gcry_error_t e = 0;
  for (size_t done = 0; !e && done < length; done += kSector, ++sector) {
    unsigned char iv[16] = {};
    uint64_t number = iv_ == Iv::kPlain ? sector & 0xffffffff : sector;
    memcpy(iv, &number, sizeof number);  // little-endian, as this machine is
    if (iv_ == Iv::kEssiv) e = gcry_cipher_encrypt(context->iv.get(), iv, block_, nullptr, 0);
    if (!e && iv_ != Iv::kNone) e = mode_ == GCRY_CIPHER_MODE_CTR ? gcry_cipher_setctr(cipher, iv, block_) : gcry_cipher_setiv(cipher, iv, block_);
    if (!e) e = encrypt ? gcry_cipher_encrypt(cipher, out + done, kSector, in + done, kSector) : gcry_cipher_decrypt(cipher, out + done, kSector, in + done, kSector);
  }
  std::lock_guard lock(mutex_);
  free_.push_back(std::move(context));
  if (e) return fail(ErrorKind::kIo, std::string("libgcrypt could not encrypt or decrypt: ") + gcry_strerror(e), EIO);
  return {};
}

}  // namespace vireo::storage
