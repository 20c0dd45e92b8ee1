// SPDX-License-Identifier: Apache-2.0
#include "storage/crypto/luks.h"

#include <openssl/crypto.h>

#include <algorithm>

#include "base/delay_load.h"
#include "storage/crypto/af_split.h"

VIREO_DELAY_LOADED(crypto);

namespace vireo::storage {
namespace {

std::unexpected<Error> bad(const std::string& parameter, const std::string& value) {
  return fail(ErrorKind::kInvalid, "Parameter '" + parameter + "' does not accept value '" + value + "'", EINVAL);
}

// Where cryptsetup and QEMU put them: 4 KiB for the header, key material in steps of 4 KiB.
constexpr uint32_t kFirstMaterial = 8, kStep = 8;

std::string new_uuid() {
  std::array<std::byte, 16> r;
  random_bytes(r);
  r[6] = (r[6] & std::byte{0x0f}) | std::byte{0x40};
  r[8] = (r[8] & std::byte{0x3f}) | std::byte{0x80};
  std::string out;
  for (size_t i = 0; i < r.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    char hex[3];
    snprintf(hex, sizeof hex, "%02x", std::to_integer<unsigned>(r[i]));
    out += hex;
  }
  return out;
}

}  // namespace

Result<Luks> Luks::read(File& file, uint64_t base, uint64_t room) {
  Luks out;
  out.base_ = base;
  std::array<std::byte, LuksHeader::kBytes> raw;
  TRY_VOID(file.read(base, raw));
  out.header_ = TRY(LuksHeader::parse(raw, room));
  return out;
}

Result<Luks> Luks::plan(const LuksOptions& o) {
  TRY_VOID(load_library(vireo_delay_load_crypto));  // or no hash would be known below
  Luks out;
  LuksHeader& h = out.header_;
  const size_t dash = o.cipher.find('-');
  const std::string cipher = o.cipher.substr(0, dash);
  const size_t bytes = o.cipher.ends_with("-128") ? 16 : o.cipher.ends_with("-192") ? 24 : o.cipher.ends_with("-256") ? 32 : 0;
  const bool several = cipher == "aes" || cipher == "serpent" || cipher == "twofish";
  if (o.cipher == "des" || o.cipher == "3des" || o.cipher == "twofish-192")
    return fail(ErrorKind::kUnsupported, "cipher-alg " + o.cipher + " is not supported (aes and serpent are, with -128, -192 and -256, twofish with -128 and -256, cast5-128)", ENOTSUP);
  if (!bytes || (!several && o.cipher != "cast5-128") || cipher.size() + 4 != o.cipher.size()) return bad("cipher-alg", o.cipher);
  if (o.mode != "xts" && o.mode != "cbc" && o.mode != "ctr" && o.mode != "ecb") return bad("cipher-mode", o.mode);
  if (!o.ivgen.empty() && o.ivgen != "plain" && o.ivgen != "plain64" && o.ivgen != "essiv") return bad("ivgen-alg", o.ivgen);
  if (!digest_size(o.hash)) return bad("hash-alg", o.hash);
  if (!o.ivgen_hash.empty() && !digest_size(o.ivgen_hash)) return bad("ivgen-hash-alg", o.ivgen_hash);
  h.spec = {.cipher = cipher, .mode = o.mode, .ivgen = o.ivgen.empty() ? "plain64" : o.ivgen, .ivgen_hash = {}};
  if (h.spec.ivgen == "essiv") h.spec.ivgen_hash = o.ivgen_hash.empty() ? "sha256" : o.ivgen_hash;
  else if (!o.ivgen_hash.empty()) h.spec.ivgen_hash = o.ivgen_hash;
  h.hash = o.hash;
  h.uuid = new_uuid();
  h.key_bytes = static_cast<uint32_t>(o.mode == "xts" ? bytes * 2 : bytes);
  auto step = static_cast<uint32_t>((h.material_bytes() + kStep * 512 - 1) / (kStep * 512) * kStep);
  for (size_t i = 0; i < LuksHeader::kSlots; ++i) {
    h.slots[i].stripes = LuksHeader::kStripes;
    h.slots[i].offset = static_cast<uint32_t>(kFirstMaterial + i * step);
  }
  h.payload = kFirstMaterial + static_cast<uint32_t>(LuksHeader::kSlots) * step;
  random_bytes(h.salt);
  // XTS with two equal halves is no XTS.
  out.key_ = SecretBytes(h.key_bytes);
  do random_bytes(out.key_);
  while (o.mode == "xts" && CRYPTO_memcmp(out.key_.data(), out.key_.data() + bytes, bytes) == 0);
  TRY_VOID(out.cipher());
  return out;
}

uint64_t Luks::area_bytes() const { return uint64_t{header_.payload} * 512; }

Result<> Luks::create(File& file, uint64_t base, const SecretBytes& password, uint64_t iter_time) {
  base_ = base;
  header_.iterations = TRY(pbkdf2_iterations(header_.hash, LuksHeader::kDigest, iter_time)) / 8;
  header_.iterations = std::max(header_.iterations, 1000u);
  TRY_VOID(pbkdf2(header_.hash, key_, header_.salt, header_.iterations, header_.digest));
  std::vector<std::byte> zeroes(area_bytes());
  TRY_VOID(file.write(base, zeroes));
  TRY_VOID(file.write(base, header_.serialize()));
  return set_slot(file, 0, password, iter_time);
}

Result<SecretBytes> Luks::key_in(File& file, size_t slot, const SecretBytes& password) {
  const LuksSlot& s = header_.slots.at(slot);
  SecretBytes slot_key(header_.key_bytes), material((header_.material_bytes() + 511) / 512 * 512);
  TRY_VOID(pbkdf2(header_.hash, password, s.salt, s.iterations, slot_key));
  TRY_VOID(file.read(base_ + uint64_t{s.offset} * 512, material));
  auto cipher = TRY(SectorCipher::create(header_.spec, slot_key));
  TRY_VOID(cipher->decrypt(0, material.data(), material.data(), material.size()));
  return af_merge(header_.hash, std::span<const std::byte>(material).first(header_.material_bytes()), s.stripes);
}

Result<bool> Luks::opens(File& file, size_t slot, const SecretBytes& password) {
  if (!header_.slots.at(slot).active) return false;
  SecretBytes key = TRY(key_in(file, slot, password));
  std::array<std::byte, LuksHeader::kDigest> digest;
  TRY_VOID(pbkdf2(header_.hash, key, header_.salt, header_.iterations, digest));
  if (CRYPTO_memcmp(digest.data(), header_.digest.data(), digest.size()) != 0) return false;
  if (!unlocked()) key_ = std::move(key);
  return true;
}

Result<> Luks::unlock(File& file, const SecretBytes& password) {
  for (size_t i = 0; i < LuksHeader::kSlots; ++i)
    if (TRY(opens(file, i, password))) return {};
  return fail(ErrorKind::kInvalid, "Invalid password, cannot unlock any keyslot", EPERM);
}

Result<std::unique_ptr<SectorCipher>> Luks::cipher() const { return SectorCipher::create(header_.spec, key_); }

// The slot counts only when the last write, of one word, is there.
Result<> Luks::set_slot(File& file, size_t slot, const SecretBytes& password, uint64_t iter_time) {
  LuksSlot& s = header_.slots.at(slot);
  SecretBytes slot_key(header_.key_bytes);
  s.iterations = std::min(TRY(pbkdf2_iterations(header_.hash, header_.key_bytes, iter_time)), LuksHeader::kMostIterations);
  random_bytes(s.salt);
  TRY_VOID(pbkdf2(header_.hash, password, s.salt, s.iterations, slot_key));
  SecretBytes split = TRY(af_split(header_.hash, key_, s.stripes)), material((split.size() + 511) / 512 * 512);
  std::copy_n(split.data(), split.size(), material.data());
  auto cipher = TRY(SectorCipher::create(header_.spec, slot_key));
  TRY_VOID(cipher->encrypt(0, material.data(), material.data(), material.size()));
  const uint64_t at = base_ + LuksHeader::kSlotAt + slot * LuksHeader::kSlotBytes;
  s.active = false;
  TRY_VOID(file.write(base_ + uint64_t{s.offset} * 512, material));
  TRY_VOID(file.write(at, header_.serialize_slot(slot)));
  TRY_VOID(file.flush());
  s.active = true;
  auto raw = header_.serialize_slot(slot);
  TRY_VOID(file.write(at, std::span(raw).first(4)));
  return file.flush();
}

// Off first; then nothing of the key may be left.
Result<> Luks::erase_slot(File& file, size_t slot) {
  LuksSlot& s = header_.slots.at(slot);
  s.active = false;
  const uint64_t at = base_ + LuksHeader::kSlotAt + slot * LuksHeader::kSlotBytes;
  auto raw = header_.serialize_slot(slot);
  TRY_VOID(file.write(at, std::span(raw).first(4)));
  TRY_VOID(file.flush());
  std::vector<std::byte> noise((header_.material_bytes() + 511) / 512 * 512);
  random_bytes(noise);
  TRY_VOID(file.write(base_ + uint64_t{s.offset} * 512, noise));
  TRY_VOID(file.flush());
  s.iterations = 0;
  s.salt = {};
  TRY_VOID(file.write(at, header_.serialize_slot(slot)));
  return file.flush();
}

}  // namespace vireo::storage
