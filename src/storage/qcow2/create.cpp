// SPDX-License-Identifier: Apache-2.0
#include "storage/qcow2/create.h"

#include <algorithm>

namespace vireo::storage::qcow2 {
namespace {

std::unexpected<Error> bad(const std::string& why, int code = EINVAL) { return fail(ErrorKind::kInvalid, why, code); }

Geometry geometry_of(const CreateConfig& c) {
  return {.cluster_bits = static_cast<unsigned>(std::countr_zero(c.cluster_size)), .extended_l2 = c.extended_l2,
          .refcount_order = static_cast<unsigned>(std::countr_zero(c.refcount_bits))};
}

std::vector<std::byte> text(const std::string& s) {
  auto bytes = std::as_bytes(std::span(s));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

Result<> validate(const CreateConfig& c) {
  if (c.cluster_size < 512 || c.cluster_size > (2 << 20) || !std::has_single_bit(c.cluster_size))
    return bad("Cluster size must be a power of two between 512 and 2048k");
  if (c.version != 2 && c.version != 3) return bad("Invalid compatibility level");
  if (c.refcount_bits > 64 || !std::has_single_bit(c.refcount_bits)) return bad("Refcount width must be a power of two and may not exceed 64 bits");
  if (c.extended_l2 && c.version < 3) return bad("Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)");
  if (c.extended_l2 && c.cluster_size < 16384) return bad("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
  if (c.version < 3 && c.lazy_refcounts) return bad("Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)");
  if (c.version < 3 && c.refcount_bits != 16) return bad("Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)");
  if (c.version < 3 && c.compression != Compression::kZlib) return bad("Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)");
  if (!c.data_file.empty() && c.version < 3) return bad("External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)");
  if (c.data_file_raw && c.data_file.empty()) return bad("data_file_raw requires data_file");
  if (c.data_file_raw && !c.backing_file.empty()) return bad("Backing file and data-file-raw cannot be used at the same time");
  if (!c.backing_file.empty() && c.preallocation != Preallocation::kOff && !c.extended_l2)
    return bad("Backing file and preallocation can only be used at the same time if extended_l2 is enabled");
  if (c.size > INT64_MAX || geometry_of(c).l1_entries(c.size) > kMaxL1Bytes / 8) return bad("The image size is too large for file format 'qcow2' (try using a larger cluster size)", EFBIG);
  if (c.crypt == Crypt::kLuks) TRY_VOID(Luks::plan(c.luks));
  if (c.backing_file.size() > kMaxBackingName) return bad("Backing file name too long");
  return {};
}

Result<> create(File& file, const CreateConfig& c) {
  TRY_VOID(validate(c));
  if (c.crypt != Crypt::kNone && !c.secret) return bad("Parameter 'encrypt.key-secret' is required for cipher");
  std::optional<Luks> luks;
  if (c.crypt == Crypt::kLuks) luks = TRY(Luks::plan(c.luks));
  Header h;
  h.crypt = c.crypt;
  h.version = c.version;
  h.geometry = geometry_of(c);
  const Geometry& g = h.geometry;
  const uint64_t cluster = c.cluster_size;
  h.size = c.size;
  h.l1_size = static_cast<uint32_t>(g.l1_entries(c.size));
  h.reftable_offset = cluster;
  h.compression = c.compression;
  if (c.compression != Compression::kZlib) h.incompatible |= incompatible::kCompression;
  if (c.extended_l2) h.incompatible |= incompatible::kExtendedL2;
  if (c.lazy_refcounts) h.compatible |= compatible::kLazyRefcounts;
  if (!c.data_file.empty()) h.incompatible |= incompatible::kDataFile;
  if (c.data_file_raw) h.autoclear |= autoclear::kRawData;
  h.backing_file = c.backing_file;
  h.has_backing = !c.backing_file.empty();
  if (!c.backing_format.empty()) h.set(extension::kBackingFormat, text(c.backing_format));
  if (!c.data_file.empty()) h.set(extension::kDataFile, text(c.data_file));
  if (c.version >= 3) h.set(extension::kFeatureNames, Header::feature_names());
  // Header, table, blocks, L1: the table and the blocks must count all of these.
  uint64_t l1_clusters = divide_up(h.l1_size * 8ull, cluster), blocks = 1, table = 1;
  const uint64_t crypto = luks ? divide_up(luks->area_bytes(), cluster) : 0;
  for (;;) {
    uint64_t all = 1 + table + blocks + l1_clusters + crypto, need = divide_up(all, g.refblock_entries());
    uint64_t need_table = divide_up(need * 8, cluster);
    if (need <= blocks && need_table <= table) break;
    blocks = std::max(blocks, need);
    table = std::max(table, need_table);
  }
  h.reftable_clusters = static_cast<uint32_t>(table);
  const uint64_t first_block = 1 + table;
  h.l1_offset = l1_clusters ? (first_block + blocks) * cluster : 0;
  const uint64_t crypto_at = (first_block + blocks + l1_clusters) * cluster;
  if (luks) {
    std::vector<std::byte> pointer(16);
    store(&pointer[0], crypto_at);
    store(&pointer[8], luks->area_bytes());
    h.set(extension::kCrypto, std::move(pointer));
  }
  // Names of features are a courtesy; in the smallest clusters there may be no room for them.
  if (!h.serialize()) h.set(extension::kFeatureNames, {});
  auto header = TRY(h.serialize());
  const uint64_t all = 1 + table + blocks + l1_clusters + crypto;
  std::vector<std::byte> raw(table * cluster);
  for (uint64_t i = 0; i < blocks; ++i) store(&raw[i * 8], (first_block + i) * cluster);
  for (uint64_t i = 0; i < blocks; ++i) {
    std::vector<std::byte> block(cluster);
    for (uint64_t k = 0; k < g.refblock_entries() && i * g.refblock_entries() + k < all; ++k) set_refcount(block.data(), g.refcount_order, k, 1);
    TRY_VOID(file.write((first_block + i) * cluster, block));
  }
  TRY_VOID(file.write(cluster, raw));
  std::vector<std::byte> l1(h.l1_size * 8ull);
  if (!l1.empty()) TRY_VOID(file.write(h.l1_offset, l1));
  else TRY_VOID(file.truncate(all * cluster));
  if (luks) {
    TRY_VOID(luks->create(file, crypto_at, *c.secret, c.luks.iter_time));
    TRY_VOID(file.truncate(all * cluster));  // to the end of its last cluster
  }
  // The header last: without it this is no image.
  header.resize(std::min<uint64_t>(round_up(header.size(), 512), cluster));
  TRY_VOID(file.flush());
  TRY_VOID(file.write(0, header));
  return file.flush();
}

uint64_t file_size_for(const CreateConfig& c, uint64_t data_clusters) {
  Geometry g = geometry_of(c);
  const uint64_t cluster = c.cluster_size;
  uint64_t l2_tables = divide_up(divide_up(c.size, cluster) * g.l2_entry_size(), cluster);
  uint64_t crypto = 0;
  if (c.crypt == Crypt::kLuks)
    if (auto luks = Luks::plan(c.luks)) crypto = divide_up(luks->area_bytes(), cluster);
  uint64_t meta = 1 + crypto + l2_tables + divide_up(l2_tables * 8, cluster);
  uint64_t fixed = meta + data_clusters, blocks = 0, table = 0;
  for (;;) {
    uint64_t need = divide_up(fixed + blocks + table, g.refblock_entries()), need_table = divide_up(need * 8, cluster);
    if (need == blocks && need_table == table) break;
    blocks = need;
    table = need_table;
  }
  return (fixed + blocks + table) * cluster;
}

}  // namespace vireo::storage::qcow2
