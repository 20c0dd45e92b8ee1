// SPDX-License-Identifier: Apache-2.0
#include "storage/crypto/luks_header.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "storage/crypto/digest.h"

namespace vireo::storage {
namespace {

constexpr unsigned char kMagic[6] = {'L', 'U', 'K', 'S', 0xba, 0xbe};
constexpr uint32_t kEnabled = 0x00ac71f3, kDisabled = 0x0000dead;
constexpr size_t kName = 8, kMode = 40, kHash = 72, kPayload = 104, kKeyBytes = 108, kSalt = 132, kIterations = 164, kUuid = 168;

uint32_t u32(const std::byte* p) {
  uint32_t value;
  memcpy(&value, p, 4);
  return std::byteswap(value);
}
void put(std::byte* p, uint32_t value) {
  value = std::byteswap(value);
  memcpy(p, &value, 4);
}
std::unexpected<Error> bad(const std::string& why) { return fail(ErrorKind::kCorrupt, "LUKS header: " + why, EINVAL); }

// Ends with a zero byte inside its field, and is fit to be shown.
Result<std::string> text(std::span<const std::byte> field, const char* what) {
  const char* p = reinterpret_cast<const char*>(field.data());
  size_t length = strnlen(p, field.size());
  if (length == field.size()) return bad(std::string(what) + " does not end");
  std::string out(p, length);
  if (!std::ranges::all_of(out, [](char c) { return c > 32 && c < 127; })) return bad(std::string(what) + " is not a word");
  return out;
}

}  // namespace

bool is_luks(std::span<const std::byte> start) {
  return start.size() >= 8 && memcmp(start.data(), kMagic, sizeof kMagic) == 0 && start[6] == std::byte{0} && start[7] == std::byte{1};
}

std::string LuksHeader::mode_text() const {
  if (spec.mode == "ecb" && spec.ivgen.empty()) return "ecb";
  return spec.mode + "-" + spec.ivgen + (spec.ivgen_hash.empty() ? "" : ":" + spec.ivgen_hash);
}

std::string LuksHeader::cipher_text() const { return spec.cipher + "-" + std::to_string((spec.mode == "xts" ? key_bytes / 2 : key_bytes) * 8); }

Result<LuksHeader> LuksHeader::parse(std::span<const std::byte> raw, uint64_t room) {
  if (raw.size() < kBytes || memcmp(raw.data(), kMagic, sizeof kMagic) != 0) return fail(ErrorKind::kInvalid, "Volume is not in LUKS format", EINVAL);
  if (!is_luks(raw)) return fail(ErrorKind::kUnsupported, "LUKS version " + std::to_string(std::to_integer<int>(raw[6]) << 8 | std::to_integer<int>(raw[7])) + " is not supported", ENOTSUP);
  LuksHeader h;
  h.spec.cipher = TRY(text(raw.subspan(kName, 32), "the cipher's name"));
  std::string mode = TRY(text(raw.subspan(kMode, 32), "the cipher's mode"));
  h.hash = TRY(text(raw.subspan(kHash, 32), "the hash's name"));
  h.uuid = TRY(text(raw.subspan(kUuid, 40), "the UUID"));
  size_t dash = mode.find('-'), colon = mode.find(':');
  if (colon != std::string::npos && (dash == std::string::npos || colon < dash)) return bad("the cipher's mode '" + mode + "'");
  h.spec.mode = mode.substr(0, dash);
  h.spec.ivgen = dash == std::string::npos ? "" : mode.substr(dash + 1, colon == std::string::npos ? colon : colon - dash - 1);
  h.spec.ivgen_hash = colon == std::string::npos ? "" : mode.substr(colon + 1);
  h.payload = u32(&raw[kPayload]);
  h.key_bytes = u32(&raw[kKeyBytes]);
  std::copy_n(&raw[kMasterDigestAt], kDigest, h.digest.begin());
  std::copy_n(&raw[kSalt], 32, h.salt.begin());
  h.iterations = u32(&raw[kIterations]);
  if (h.key_bytes == 0 || h.key_bytes > 128) return bad("a key of " + std::to_string(h.key_bytes) + " bytes");
  if (h.iterations == 0 || h.iterations > kMostIterations) return bad(std::to_string(h.iterations) + " iterations of the key's hash");
  const uint64_t first = (kBytes + 511) / 512, sectors = (h.material_bytes() + 511) / 512;
  for (size_t i = 0; i < kSlots; ++i) {
    const std::byte* p = &raw[kSlotAt + i * kSlotBytes];
    LuksSlot& s = h.slots[i];
    std::string name = "key slot " + std::to_string(i);
    uint32_t active = u32(p);
    if (active != kEnabled && active != kDisabled) return bad(name + " is neither in use nor free");
    s.active = active == kEnabled;
    s.iterations = u32(p + 4);
    std::copy_n(p + 8, 32, s.salt.begin());
    s.offset = u32(p + 40);
    s.stripes = u32(p + 44);
    if (s.stripes != kStripes) return bad(name + " has " + std::to_string(s.stripes) + " stripes");
    if (s.active && (s.iterations == 0 || s.iterations > kMostIterations)) return bad(name + " has " + std::to_string(s.iterations) + " iterations");
    if (s.offset < first || (s.offset + sectors) * 512 > room) return bad(name + "'s key material is outside of its place");
    for (size_t k = 0; k < i; ++k)
      if (s.offset < h.slots[k].offset + sectors && h.slots[k].offset < s.offset + sectors) return bad(name + " overlaps with key slot " + std::to_string(k));
  }
  return h;
}

std::array<std::byte, LuksHeader::kSlotBytes> LuksHeader::serialize_slot(size_t index) const {
  const LuksSlot& s = slots[index];
  std::array<std::byte, kSlotBytes> out{};
  put(&out[0], s.active ? kEnabled : kDisabled);
  put(&out[4], s.iterations);
  std::ranges::copy(s.salt, &out[8]);
  put(&out[40], s.offset);
  put(&out[44], s.stripes);
  return out;
}

std::array<std::byte, LuksHeader::kBytes> LuksHeader::serialize() const {
  std::array<std::byte, kBytes> out{};
  memcpy(out.data(), kMagic, sizeof kMagic);
  out[7] = std::byte{1};
  auto word = [&](size_t at, size_t room, const std::string& value) { memcpy(&out[at], value.data(), std::min(value.size(), room - 1)); };
  word(kName, 32, spec.cipher);
  word(kMode, 32, mode_text());
  word(kHash, 32, hash);
  word(kUuid, 40, uuid);
  put(&out[kPayload], payload);
  put(&out[kKeyBytes], key_bytes);
  std::ranges::copy(digest, &out[kMasterDigestAt]);
  std::ranges::copy(salt, &out[kSalt]);
  put(&out[kIterations], iterations);
  for (size_t i = 0; i < kSlots; ++i) std::ranges::copy(serialize_slot(i), &out[kSlotAt + i * kSlotBytes]);
  return out;
}

}  // namespace vireo::storage
