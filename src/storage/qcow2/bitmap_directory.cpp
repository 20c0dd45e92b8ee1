// SPDX-License-Identifier: Apache-2.0
// The list of bitmaps as it lies in the file. Spec: "Bitmap directory".
#include <algorithm>
#include <unordered_set>

#include "storage/qcow2/bitmap.h"

namespace vireo::storage::qcow2 {
namespace {

constexpr uint64_t kEntry = 24;  // bytes before extra data and name
constexpr uint64_t kMaxDirectory = kMaxBitmaps * (kEntry + kMaxBitmapName + 8);

}  // namespace

Result<BitmapDirectory> read_bitmap_directory(File& file, const Header& header) {
  BitmapDirectory out;
  const Extension* e = header.find(extension::kBitmaps);
  if (!e || !(header.autoclear & autoclear::kBitmaps)) return out;
  auto bad = [](const std::string& why) { return fail(ErrorKind::kCorrupt, "the bitmap directory is invalid: " + why, EINVAL); };
  if (e->data.size() != 24) return bad("the header extension has a wrong length");
  auto count = load<uint32_t>(&e->data[0]);
  out.bytes = load<uint64_t>(&e->data[8]);
  out.offset = load<uint64_t>(&e->data[16]);
  if (count == 0 || count > kMaxBitmaps) return bad(std::to_string(count) + " bitmaps");
  if (load<uint32_t>(&e->data[4])) return bad("a reserved field is set");
  if (out.offset == 0 || header.geometry.in_cluster(out.offset) || out.offset > file.size()) return bad("its offset");
  if (out.bytes < count * kEntry || out.bytes > kMaxDirectory || out.bytes > round_up(file.size(), header.geometry.cluster_size()) - out.offset)
    return bad("its length");
  std::vector<std::byte> raw(out.bytes);
  TRY_VOID(file.read(out.offset, raw));
  std::unordered_set<std::string> names;
  uint64_t at = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (raw.size() - at < kEntry) return bad("it ends within an entry");
    const std::byte* p = &raw[at];
    Bitmap b;
    b.table_offset = load<uint64_t>(p);
    b.table_entries = load<uint32_t>(p + 8);
    b.flags = load<uint32_t>(p + 12);
    b.flags_at = at + 12;
    b.type = std::to_integer<uint8_t>(p[16]);
    b.granularity_bits = std::to_integer<unsigned>(p[17]);
    uint64_t name = load<uint16_t>(p + 18), extra = load<uint32_t>(p + 20);
    if (extra > raw.size() - at - kEntry || name > raw.size() - at - kEntry - extra) return bad("it ends within an entry");
    b.extra.assign(p + kEntry, p + kEntry + extra);
    b.name.assign(reinterpret_cast<const char*>(p + kEntry + extra), name);
    if (name == 0 || name > kMaxBitmapName || b.name.find('\0') != std::string::npos) return bad("a bitmap's name");
    if (!names.insert(b.name).second) return bad("two bitmaps have one name");
    at = std::min<uint64_t>(raw.size(), at + round_up(kEntry + extra + name, 8));
    out.bitmaps.push_back(std::move(b));
  }
  return out;
}

std::vector<std::byte> serialize_bitmap_directory(const std::vector<Bitmap>& bitmaps, std::vector<uint64_t>& flags_at) {
  std::vector<std::byte> out;
  for (const Bitmap& b : bitmaps) {
    size_t at = out.size();
    out.resize(at + round_up(kEntry + b.extra.size() + b.name.size(), 8));
    std::byte* p = &out[at];
    store(p, b.table_offset);
    store(p + 8, b.table_entries);
    store(p + 12, b.flags);
    flags_at.push_back(at + 12);
    p[16] = std::byte{b.type};
    p[17] = static_cast<std::byte>(b.granularity_bits);
    store(p + 18, static_cast<uint16_t>(b.name.size()));
    store(p + 20, static_cast<uint32_t>(b.extra.size()));
    std::ranges::copy(b.extra, p + kEntry);
    std::ranges::copy(std::as_bytes(std::span(b.name)), p + kEntry + b.extra.size());
  }
  return out;
}

std::vector<std::byte> bitmaps_extension(uint32_t count, uint64_t offset, uint64_t bytes) {
  if (count == 0) return {};
  std::vector<std::byte> out(24);
  store(&out[0], count);
  store(&out[8], bytes);
  store(&out[16], offset);
  return out;
}

}  // namespace vireo::storage::qcow2
