// SPDX-License-Identifier: Apache-2.0
#include "storage/qcow2/header.h"

#include <algorithm>

namespace vireo::storage::qcow2 {
namespace {

struct FeatureName {
  uint8_t type, bit;
  const char* name;
};
// In the order in which QEMU writes them; the type is 0 incompatible, 1 compatible, 2 autoclear.
constexpr FeatureName kFeatureNames[] = {
    {0, 0, "dirty bit"}, {0, 1, "corrupt bit"}, {0, 2, "external data file"}, {0, 3, "compression type"},
    {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"}, {2, 0, "bitmaps"}, {2, 1, "raw external data"},
};
constexpr size_t kFeatureSize = 48;

std::unexpected<Error> bad(const std::string& why) { return fail(ErrorKind::kCorrupt, why, EINVAL); }

std::string unknown_features(const Header& header) {
  uint64_t left = header.incompatible & ~incompatible::kKnown;
  std::string names;
  auto add = [&](const std::string& name) { names += (names.empty() ? "" : ", ") + name; };
  const Extension* table = nullptr;  // the last one counts
  for (const Extension& e : header.extensions)
    if (e.type == extension::kFeatureNames) table = &e;
  if (table)
    for (size_t i = 0; i < table->data.size(); i += kFeatureSize) {
      std::byte entry[kFeatureSize] = {};  // the last one may be cut short
      std::copy_n(&table->data[i], std::min(kFeatureSize, table->data.size() - i), entry);
      auto type = std::to_integer<unsigned>(entry[0]), bit = std::to_integer<unsigned>(entry[1]);
      if (type != 0 || bit > 63 || !(left >> bit & 1)) continue;
      const char* text = reinterpret_cast<const char*>(&entry[2]);
      std::string name(text, strnlen(text, kFeatureSize - 2));
      for (char& c : name)
        if (c < 32 || c > 126) c = '?';
      add(name);
      left &= ~(1ull << bit);
    }
  if (left) {
    char number[64];
    snprintf(number, sizeof number, "Unknown incompatible feature: %lx", static_cast<unsigned long>(left));
    add(number);
  }
  return names;
}

Result<> read_extensions(Header& header, File& file, uint64_t from, uint64_t end) {
  while (from < end) {
    std::byte head[8];
    if (end - from < sizeof head) return bad("Header extension too large");
    TRY_VOID(file.read(from, head));
    auto type = load<uint32_t>(head);
    uint64_t length = load<uint32_t>(head + 4);
    from += sizeof head;
    if (type == extension::kEnd) return {};
    if (length > end - from || length > kMaxExtension) return bad("Header extension too large");
    Extension found{type, std::vector<std::byte>(length)};
    TRY_VOID(file.read(from, found.data));
    if (type == extension::kBackingFormat && length >= 16) return bad("ERROR: ext_backing_format: len=" + std::to_string(length) + " too large (>=16)");
    header.extensions.push_back(std::move(found));
    from += round_up(length, 8);
  }
  return {};
}

}  // namespace

bool is_qcow2(std::span<const std::byte> start) {
  if (start.size() < 8 || load<uint32_t>(start.data()) != kMagic) return false;
  auto version = load<uint32_t>(start.data() + 4);
  return version >= 2;
}

const Extension* Header::find(uint32_t type) const {
  // One that is there twice means what it says the last time.
  auto found = std::find_if(extensions.rbegin(), extensions.rend(), [&](const Extension& e) { return e.type == type; });
  return found == extensions.rend() ? nullptr : &*found;
}

void Header::set(uint32_t type, std::vector<std::byte> data) {
  while (std::ranges::count(extensions, type, &Extension::type) > (data.empty() ? 0 : 1)) extensions.erase(std::ranges::find(extensions, type, &Extension::type));
  auto found = std::ranges::find(extensions, type, &Extension::type);
  if (data.empty()) {
    return;
  } else if (found != extensions.end()) {
    found->data = std::move(data);
  } else {
    extensions.push_back({type, std::move(data)});
  }
}

std::string Header::text(uint32_t type) const {
  const Extension* found = find(type);
  if (!found) return "";
  const char* text = reinterpret_cast<const char*>(found->data.data());
  return std::string(text, strnlen(text, found->data.size()));
}

Result<Header> Header::read(File& file, bool any_snapshots) {
  std::vector<std::byte> raw(kHeaderV3);
  TRY_VOID(file.read(0, raw));
  auto u32 = [&](unsigned offset) { return load<uint32_t>(&raw[offset]); };
  auto u64 = [&](unsigned offset) { return load<uint64_t>(&raw[offset]); };
  if (u32(0) != kMagic) return fail(ErrorKind::kInvalid, "Image is not in qcow2 format", EINVAL);
  Header h;
  h.version = u32(4);
  if (h.version < 2 || h.version > 3)
    return fail(ErrorKind::kUnsupported, "Unsupported qcow2 version " + std::to_string(h.version), ENOTSUP);
  Geometry& g = h.geometry;
  g.cluster_bits = u32(at::kClusterBits);
  if (g.cluster_bits < kMinClusterBits || g.cluster_bits > kMaxClusterBits)
    return bad("Unsupported cluster size: 2^" + std::to_string(g.cluster_bits));
  const uint64_t cluster = g.cluster_size();
  uint64_t header_length = kHeaderV2;
  if (h.version == 3) {
    h.incompatible = u64(at::kIncompatible);
    h.compatible = u64(at::kCompatible);
    h.autoclear = u64(at::kAutoclear);
    g.refcount_order = u32(at::kRefcountOrder);
    header_length = u32(at::kHeaderLength);
    if (header_length < kHeaderV3) return bad("qcow2 header too short");
  }
  if (header_length > cluster) return bad("qcow2 header exceeds cluster size");
  if (header_length > raw.size()) {
    size_t known = raw.size();
    raw.resize(header_length);
    TRY_VOID(file.read(known, std::span(raw).subspan(known)));
    if (header_length > at::kCompression) h.compression = static_cast<Compression>(raw[at::kCompression]);
    if (header_length > kHeaderNow) h.unknown.assign(raw.begin() + kHeaderNow, raw.end());
  }
  h.size = u64(at::kSize);
  h.crypt = static_cast<Crypt>(u32(at::kCrypt));
  h.l1_size = u32(at::kL1Size);
  h.l1_offset = u64(at::kL1);
  h.reftable_offset = u64(at::kReftable);
  h.reftable_clusters = u32(at::kReftableClusters);
  h.snapshot_count = u32(at::kSnapshotCount);
  h.snapshots_offset = u64(at::kSnapshots);
  uint64_t backing = u64(at::kBacking), backing_size = u32(at::kBackingSize);
  if (backing > cluster) return bad("Invalid backing file offset");
  TRY_VOID(read_extensions(h, file, header_length, backing ? backing : cluster));
  if (h.incompatible & ~incompatible::kKnown)
    return fail(ErrorKind::kUnsupported, "Unsupported qcow2 feature(s): " + unknown_features(h), ENOTSUP);
  if (h.incompatible & incompatible::kExtendedL2) {
    g.extended_l2 = true;
    if (g.cluster_bits < 14) return bad("Extended L2 entries are not allowed with clusters smaller than 16 KiB");
  }
  if (h.incompatible & incompatible::kCompression) {
    if (h.compression == Compression::kZlib) return bad("compression_type_zlib: the incompatible feature bit is set without need");
    if (h.compression != Compression::kZstd)
      return fail(ErrorKind::kUnsupported, "qcow2: unknown compression type: " + std::to_string(static_cast<unsigned>(h.compression)), ENOTSUP);
  } else if (h.compression != Compression::kZlib) {
    return bad("qcow2: invalid compression type: the incompatible feature bit is not set");
  }
  if (g.refcount_order > 6) return bad("Reference count entry width too large; may not exceed 64 bits");
  if (h.crypt > Crypt::kLuks) return bad("Unsupported encryption method " + std::to_string(static_cast<uint32_t>(h.crypt)));
  if (h.size > INT64_MAX) return bad("Image is too large");
  if (h.reftable_clusters > kMaxReftableBytes / cluster) return bad("Image does not contain a reference count table or it is too large");
  if (h.reftable_clusters == 0) return bad("Image does not contain a reference count table");
  if (h.reftable_offset % cluster || h.reftable_offset == 0 || h.reftable_offset > INT64_MAX - kMaxReftableBytes)
    return bad("Reference count table offset invalid");
  if (h.snapshot_count > kMaxSnapshots && !any_snapshots) return bad("Snapshot table too large");
  if (h.snapshot_count && (h.snapshots_offset % cluster || h.snapshots_offset > INT64_MAX - kMaxSnapshotTable))
    return bad("Snapshot table offset invalid");
  if (h.l1_size > kMaxL1Bytes / 8) return fail(ErrorKind::kCorrupt, "Active L1 table too large", EFBIG);
  if (g.l1_entries(h.size) > kMaxL1Bytes / 8) return fail(ErrorKind::kCorrupt, "Image is too big", EFBIG);
  if (h.l1_size < g.l1_entries(h.size)) return bad("L1 table is too small");
  if (h.l1_size && (h.l1_offset % cluster || h.l1_offset == 0 || h.l1_offset > INT64_MAX - kMaxL1Bytes)) return bad("Active L1 table offset invalid");
  if (backing) {
    if (backing_size > std::min<uint64_t>(kMaxBackingName, cluster - backing)) return bad("Backing file name too long");
    h.backing_file.resize(backing_size);
    TRY_VOID(file.read(backing, std::as_writable_bytes(std::span(h.backing_file))));
    if (h.backing_file.find('\0') != std::string::npos) h.backing_file.resize(strlen(h.backing_file.c_str()));
    h.has_backing = !h.backing_file.empty();
  }
  return h;
}

std::vector<std::byte> Header::feature_names() {
  std::vector<std::byte> out(std::size(kFeatureNames) * kFeatureSize);
  for (size_t i = 0; i < std::size(kFeatureNames); ++i) {
    std::byte* entry = &out[i * kFeatureSize];
    entry[0] = std::byte{kFeatureNames[i].type};
    entry[1] = std::byte{kFeatureNames[i].bit};
    memcpy(entry + 2, kFeatureNames[i].name, strlen(kFeatureNames[i].name));
  }
  return out;
}

Result<std::vector<std::byte>> Header::serialize() const {
  // Bytes of the compression type and its padding exist in every v3 header that we write.
  size_t length = version == 2 ? kHeaderV2 : kHeaderNow + unknown.size();
  std::vector<std::byte> out(length);
  auto u32 = [&](unsigned offset, uint32_t value) { store(&out[offset], value); };
  auto u64 = [&](unsigned offset, uint64_t value) { store(&out[offset], value); };
  u32(0, kMagic);
  u32(4, version);
  u32(at::kClusterBits, geometry.cluster_bits);
  u64(at::kSize, size);
  u32(at::kCrypt, static_cast<uint32_t>(crypt));
  u32(at::kL1Size, l1_size);
  u64(at::kL1, l1_offset);
  u64(at::kReftable, reftable_offset);
  u32(at::kReftableClusters, reftable_clusters);
  u32(at::kSnapshotCount, snapshot_count);
  u64(at::kSnapshots, snapshots_offset);
  if (version >= 3) {
    u64(at::kIncompatible, incompatible);
    u64(at::kCompatible, compatible);
    u64(at::kAutoclear, autoclear);
    u32(at::kRefcountOrder, geometry.refcount_order);
    u32(at::kHeaderLength, static_cast<uint32_t>(length));
    out[at::kCompression] = static_cast<std::byte>(compression);
    std::ranges::copy(unknown, out.begin() + kHeaderNow);
  }
  // The order in which QEMU writes them; what it does not know comes last.
  constexpr uint32_t kOrder[] = {extension::kBackingFormat, extension::kDataFile, extension::kCrypto, extension::kFeatureNames, extension::kBitmaps};
  auto sorted = extensions;
  std::ranges::stable_sort(sorted, {}, [&](const Extension& e) { return std::ranges::find(kOrder, e.type) - std::begin(kOrder); });
  for (const Extension& e : sorted) {
    size_t start = out.size();
    out.resize(start + 8 + round_up(e.data.size(), 8));
    u32(static_cast<unsigned>(start), e.type);
    u32(static_cast<unsigned>(start + 4), static_cast<uint32_t>(e.data.size()));
    std::ranges::copy(e.data, out.begin() + static_cast<ptrdiff_t>(start) + 8);
  }
  out.resize(out.size() + 8);  // the end of extensions
  if (has_backing) {
    u64(at::kBacking, out.size());
    u32(at::kBackingSize, static_cast<uint32_t>(backing_file.size()));
    auto name = std::as_bytes(std::span(backing_file));
    out.insert(out.end(), name.begin(), name.end());
  }
  if (out.size() > geometry.cluster_size()) return fail(ErrorKind::kInvalid, "the header does not fit into one cluster", ENOSPC);
  return out;
}

}  // namespace vireo::storage::qcow2
