// SPDX-License-Identifier: Apache-2.0
// Opening an image: header, tables, what must be put right before it may be written.
#include <algorithm>

#include "storage/qcow2/qcow2.h"
#include "storage/qcow2/snapshot_table.h"

namespace vireo::storage::qcow2 {

const char* owner_name(Owner owner) {
  switch (owner) {
    case Owner::kNone: return "nothing";
    case Owner::kHeader: return "qcow2_header";
    case Owner::kActiveL1: return "active L1 table";
    case Owner::kActiveL2: return "active L2 table";
    case Owner::kReftable: return "refcount table";
    case Owner::kRefblock: return "refcount block";
    case Owner::kSnapshotTable: return "snapshot table";
    case Owner::kInactiveL1: return "inactive L1 table";
    case Owner::kBitmaps: return "bitmap directory";
    case Owner::kCrypto: return "encryption header";
  }
  return "?";
}

Result<std::unique_ptr<Qcow2>> Qcow2::open(std::unique_ptr<File> file, std::unique_ptr<File> data_file, const OpenConfig& config) {
  std::unique_ptr<Qcow2> image(new Qcow2(std::move(file), std::move(data_file), config));
  if (auto result = image->open_image(); !result) {
    image->closed_ = true;  // nothing may be written to what was refused
    return std::unexpected(std::move(result).error());
  }
  return image;
}

Result<> Qcow2::load_l1(uint64_t offset, uint32_t size) {
  l1_ = TRY(read_l1(offset, size));
  return {};
}

Result<std::vector<uint64_t>> Qcow2::read_l1(uint64_t offset, uint32_t entries) {
  if (entries > kMaxL1Bytes / 8) return fail(ErrorKind::kCorrupt, "L1 table too large", EFBIG);
  std::vector<std::byte> raw(static_cast<uint64_t>(entries) * 8);
  if (!raw.empty()) TRY_VOID(file_->read(offset, raw));
  std::vector<uint64_t> l1(entries);
  for (size_t i = 0; i < l1.size(); ++i) l1[i] = load<uint64_t>(&raw[i * 8]);
  return l1;
}

Result<> Qcow2::open_image() {
  header_ = TRY(Header::read(*file_));
  geometry_ = header_.geometry;
  if (header_.has_data_file() && !data_file_)
    return fail(ErrorKind::kInvalid, "'data-file' is required for this image", EINVAL);
  if (!header_.has_data_file() && data_file_)
    return fail(ErrorKind::kInvalid, "'data-file' can only be set for images with an external data file", EINVAL);
  decompressed_ = std::make_unique<ClusterCache>(cluster_size());
  l2_ = std::make_unique<TableCache>(*file_, cluster_size(), std::max(config_.l2_cache, 8 * cluster_size()));
  refcounts_ = std::make_unique<Refcounts>(*file_, header_, std::max(config_.refcount_cache, 8 * cluster_size()));
  if (header_.incompatible & incompatible::kCorrupt && !file_->read_only() && !config_.allow_corrupt)
    return fail(ErrorKind::kCorrupt, "qcow2: Image is corrupt; cannot be opened read/write", EACCES);
  TRY_VOID(load_l1(header_.l1_offset, header_.l1_size));
  TRY_VOID(load_snapshots());
  TRY_VOID(open_encryption());
  TRY_VOID(load_bitmaps());
  if (!file_->read_only()) TRY_VOID(open_writable());
  return {};
}

// Spec: "Full disk encryption header pointer" and "Data encryption". The legacy method's key is the password itself, cut or
// filled with zeroes to the 16 bytes of AES-128, which is what programs do whatever the specification says.
Result<> Qcow2::open_encryption() {
  if (header_.crypt == Crypt::kNone) return {};
  if (header_.crypt == Crypt::kLuks) {
    const Extension* e = header_.find(extension::kCrypto);
    if (!e || e->data.size() != 16) return fail(ErrorKind::kCorrupt, "the encryption header's extension is missing or has a wrong length", EINVAL);
    auto offset = load<uint64_t>(&e->data[0]), length = load<uint64_t>(&e->data[8]);
    if (geometry_.in_cluster(offset) || offset == 0 || offset > file_->size() || length > file_->size() - offset)
      return fail(ErrorKind::kCorrupt, "the encryption header lies outside of the image", EINVAL);
    luks_ = TRY(Luks::read(*file_, offset, length));
  }
  locked_ = true;
  if (config_.no_data && !config_.secret) return {};
  if (!config_.secret) return fail(ErrorKind::kInvalid, "Parameter 'encrypt.key-secret' is required for cipher", EINVAL);
  if (luks_) {
    TRY_VOID(luks_->unlock(*file_, *config_.secret));
    cipher_ = TRY(luks_->cipher());
  } else {
    SecretBytes key(size_t{16});
    std::copy_n(config_.secret->data(), std::min(key.size(), config_.secret->size()), key.data());
    cipher_ = TRY(SectorCipher::create({.cipher = "aes", .mode = "cbc", .ivgen = "plain64", .ivgen_hash = {}}, key));
  }
  locked_ = false;
  return {};
}

Result<> Qcow2::readable() const {
  if (locked_) return fail(ErrorKind::kInvalid, "'" + file_->name() + "' is encrypted and was opened without a key", EPERM);
  return {};
}

Result<> Qcow2::load_snapshots() {
  auto table = TRY(read_snapshot_table(*file_, header_, config_.snapshots));
  snapshots_ = std::move(table.snapshots);
  snapshot_table_size_ = table.bytes;
  return {};
}

// The lock is held, or nobody else there yet.
Result<> Qcow2::connect_refcounts() {
  TRY_VOID(refcounts_->load());
  own(header_.reftable_offset, static_cast<uint64_t>(header_.reftable_clusters) << geometry_.cluster_bits, Owner::kReftable);
  for (uint64_t entry : refcounts_->table()) {
    if (!(entry & kReftableMask) || geometry_.in_cluster(entry & kReftableMask)) continue;
    // Written as two things it would destroy one of them; and what a few bytes can name a million times costs time.
    if (owners_.get((entry & kReftableMask) >> geometry_.cluster_bits) != Owner::kNone)
      return fail(ErrorKind::kCorrupt, "a refcount block overlaps with other metadata: the image must be repaired first (check -r all)", EIO);
    own(entry & kReftableMask, 1, Owner::kRefblock);
  }
  refcounts_->on_metadata = [this](uint64_t cluster, bool is) {
    is ? owners_.set(cluster, Owner::kRefblock) : owners_.remove(cluster);
    high_water_ = std::max(high_water_, (cluster + 1) << geometry_.cluster_bits);
  };
  refcounts_->is_metadata = [this](uint64_t cluster) { return owners_.get(cluster) != Owner::kNone; };
  refcounts_->on_free = [this](uint64_t cluster) { pending_.push_back({cluster, 1, false}); };
  refcounts_->on_doubt = [this](int code) { flush_error_ = code; };
  return {};
}

Result<> Qcow2::open_writable() {
  if (header_.incompatible & incompatible::kDirty && !config_.allow_dirty)
    return fail(ErrorKind::kInternal, "'" + file_->name() + "' was not closed cleanly and must be repaired first", EUCLEAN);
  dirty_marked_ = header_.incompatible & incompatible::kDirty;
  high_water_ = file_->grows() ? round_up(file_->size(), cluster_size()) : file_->size();
  own(0, 1, Owner::kHeader);
  TRY_VOID(connect_refcounts());
  if (!l1_.empty()) own(header_.l1_offset, l1_.size() * 8, Owner::kActiveL1);
  for (uint64_t entry : l1_)
    if (entry & kOffsetMask) own(entry & kOffsetMask, 1, Owner::kActiveL2);
  if (const Extension* e = header_.find(extension::kCrypto); e && luks_) own(load<uint64_t>(&e->data[0]), load<uint64_t>(&e->data[8]), Owner::kCrypto);
  if (snapshot_table_size_) own(header_.snapshots_offset, snapshot_table_size_, Owner::kSnapshotTable);
  for (const Snapshot& s : snapshots_)
    if (s.l1_size && s.l1_size <= kMaxL1Bytes / 8 && !geometry_.in_cluster(s.l1_offset)) own(s.l1_offset, s.l1_size * 8ull, Owner::kInactiveL1);
  TRY_VOID(own_bitmaps());
  // Unknown autoclear bits are gone before anything changes; so are bitmaps of which nobody can tell what they are.
  uint64_t keep = header_.autoclear & (bitmaps_lost_ ? autoclear::kKnown & ~autoclear::kBitmaps : autoclear::kKnown);
  if (keep != header_.autoclear && v3() && !config_.keep_autoclear) {
    header_.autoclear = keep;
    std::byte bits[8];
    store(bits, keep);
    TRY_VOID(put_header_field(at::kAutoclear, bits));
    TRY_VOID(file_->flush());
  }
  return {};
}

// Only a sector is written whole or not at all. A header of several goes by way of one that fits into the first: without the names of
// features, and with the backing file's name behind all that is read before and after.
Result<> Qcow2::rewrite_header(const Header& header) {
  constexpr uint64_t kSector = 512;
  auto bytes = TRY(header.serialize());
  TRY_VOID(commit(true));
  std::lock_guard lock(mutex_);
  std::vector<std::byte> whole(cluster_size()), before(cluster_size());
  std::ranges::copy(bytes, whole.begin());
  TRY_VOID(file_->read(0, before));
  auto put = [&](std::span<const std::byte> from, uint64_t start, uint64_t end) -> Result<> {
    if (start >= end) return {};
    TRY_VOID(file_->write(start, from.subspan(start, end - start)));
    return file_->flush();
  };
  uint64_t differ = 0, end = bytes.size();
  for (uint64_t at = 0; at < whole.size(); at += kSector)
    differ += !std::equal(&whole[at], &whole[at] + kSector, &before[at]);
  for (uint64_t at = end; at < before.size(); ++at)
    if (before[at] != std::byte{0}) end = at + 1;
  Header small = header;
  small.set(extension::kFeatureNames, {});
  auto first = TRY(small.serialize());
  const uint64_t name = small.has_backing ? small.backing_file.size() : 0, aside = round_up(end, kSector);
  const bool moved = first.size() > kSector;
  const bool steps = differ > 1 && first.size() - name <= kSector && (!moved || aside + name <= whole.size());
  if (steps) {
    if (moved) {
      std::ranges::copy(std::as_bytes(std::span(small.backing_file)), before.begin() + static_cast<ptrdiff_t>(aside));
      TRY_VOID(put(before, aside, aside + name));
      store(&first[at::kBacking], aside);
    }
    first.resize(kSector);
    TRY_VOID(put(first, 0, kSector));
    TRY_VOID(put(whole, kSector, moved ? aside : whole.size()));
    TRY_VOID(put(whole, 0, kSector));
  }
  TRY_VOID(put(whole, steps ? aside : 0, whole.size()));
  header_ = header;
  return {};
}

}  // namespace vireo::storage::qcow2
