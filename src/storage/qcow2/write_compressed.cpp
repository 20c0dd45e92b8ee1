// SPDX-License-Identifier: Apache-2.0
// Compressed clusters lie byte by byte one after the other; several share a cluster of the file, each counting in it.
#include <algorithm>

#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {

std::vector<std::byte> Qcow2::compress(std::span<const std::byte> cluster) const { return compress_cluster(header_.compression, cluster); }

Result<> Qcow2::write_compressed(uint64_t offset, std::span<const std::byte> data) {
  if (data_file_) return fail(ErrorKind::kUnsupported, "Compression not supported with an external data file", ENOTSUP);
  if (header_.crypt != Crypt::kNone) return fail(ErrorKind::kUnsupported, "Compression and encryption not supported at the same time", ENOTSUP);
  if (geometry_.in_cluster(offset) || data.size() > cluster_size() || (data.size() < cluster_size() && offset + data.size() != header_.size))
    return fail(ErrorKind::kInvalid, "compressed writes are of whole clusters", EINVAL);
  std::vector<std::byte> padded;
  if (data.size() < cluster_size()) {
    padded.assign(data.begin(), data.end());
    padded.resize(cluster_size());
  }
  auto packed = compress(padded.empty() ? data : padded);
  if (packed.empty()) return write(offset, data);
  return write_precompressed(offset, packed);
}

// Behind what was written last if the cluster there (and the next one, when needed) can take it.
Result<uint64_t> Qcow2::allocate_bytes(uint64_t length) {
  TRY_VOID(before_allocation());
  cool();
  const uint64_t size = cluster_size();
  if (compressed_next_ && geometry_.in_cluster(compressed_next_)) {
    uint64_t cluster = compressed_next_ >> geometry_.cluster_bits, room = size - geometry_.in_cluster(compressed_next_);
    if (TRY(refcounts_->get(cluster)) < geometry_.refcount_max()) {
      bool fits = length <= room;
      if (!fits) fits = TRY(refcounts_->allocate_at(cluster + 1, 1)) == 1;
      if (fits) {
        if (length > room) TRY_VOID(check_overlap((cluster + 1) << geometry_.cluster_bits, 1, "compressed data"));
        TRY_VOID(refcounts_->add(cluster));
        uint64_t offset = compressed_next_;
        compressed_next_ += length;
        high_water_ = std::max(high_water_, round_up(compressed_next_, size));
        return offset;
      }
    }
  }
  uint64_t offset = TRY(refcounts_->allocate_cluster());
  TRY_VOID(check_overlap(offset, length, "compressed data"));
  compressed_next_ = offset + length;
  high_water_ = std::max(high_water_, offset + size);
  return offset;
}

Result<> Qcow2::write_precompressed(uint64_t guest, std::span<const std::byte> packed) {
  if (header_.crypt != Crypt::kNone) return fail(ErrorKind::kUnsupported, "Compression and encryption not supported at the same time", ENOTSUP);
  TRY_VOID(writable_check(guest, std::min(cluster_size(), header_.size - std::min(guest, header_.size))));
  std::unique_lock lock(mutex_);
  wait_idle(guest, guest + cluster_size(), lock);
  TRY(writable_l2(guest));  // before the data, so that data in a row stays in a row
  uint64_t host = TRY(allocate_bytes(packed.size()));
  busy_.push_back({guest, guest + cluster_size()});
  lock.unlock();
  auto result = file_->write(host, packed);
  lock.lock();
  uint64_t sectors = ((host + packed.size() - 1) >> 9) - (host >> 9);
  uint64_t word = kCompressed | host | sectors << geometry_.compressed_shift();
  if (result) result = link_compressed(guest, word);
  std::erase_if(busy_, [&](const Busy& b) { return b.from == guest; });
  idle_.notify_all();
  if (!result) {
    for (uint64_t c = host >> geometry_.cluster_bits; c <= (host + packed.size() - 1) >> geometry_.cluster_bits; ++c)
      (void)refcounts_->subtract(c);
    compressed_next_ = 0;
    told_ = true;
    return result;
  }
  lock.unlock();
  return commit_if_full();
}

Result<> Qcow2::link_compressed(uint64_t guest, uint64_t word) {
  Table* table = TRY(writable_l2(guest));
  Entry old = entry_at(*table, guest);
  set_entry(*table, guest, {word, 0});
  release_entry(old, false);
  return {};
}

}  // namespace vireo::storage::qcow2
