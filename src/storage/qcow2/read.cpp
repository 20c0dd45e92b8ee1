// SPDX-License-Identifier: Apache-2.0
// Reading, and telling what lies where.
#include <algorithm>

#include "storage/crypto/encrypted_io.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {

Result<> Qcow2::read(uint64_t offset, std::span<const iovec> to) {
  const uint64_t length = total(to);
  if (offset > header_.size || length > header_.size - offset) return fail(ErrorKind::kInvalid, "read past the end of the image", EIO);
  TRY_VOID(readable());
  return read_space(offset, to);
}

Result<> Qcow2::read_space(uint64_t offset, std::span<const iovec> to) {
  const uint64_t length = total(to);
  uint64_t done = 0;
  while (done < length) {
    Hold keep;
    Mapping m;
    {
      std::lock_guard lock(mutex_);
      m = TRY(map(offset + done, length - done));
      if (m.kind == Kind::kNormal || m.kind == Kind::kCompressed) keep = hold();
      l2_->trim();
    }
    Parts piece = slice(to, done, m.length);
    switch (m.kind) {
      case Kind::kUnallocated:
      case Kind::kUnallocatedInCluster:
        if (backing_) file_->event("read_backing_aio");
        TRY_VOID(read_padded(offset + done < vm_state_start() ? backing_.get() : nullptr, offset + done, piece));
        break;
      case Kind::kZero:
      case Kind::kZeroAllocated: fill_zero(piece); break;
      case Kind::kCompressed: TRY_VOID(read_compressed(m.entry, geometry_.in_cluster(offset + done), piece)); break;
      case Kind::kNormal: {
        file_->event("read_aio");
        if (!cipher_) {
          TRY_VOID(data_file().readv(m.host, piece));
          break;
        }
        TRY_VOID(read_encrypted(data_file(), *cipher_, m.host, cipher_sector(offset + done, m.host), piece));
        break;
      }
      case Kind::kInvalid: return fail(ErrorKind::kCorrupt, "an invalid L2 entry", EIO);
    }
    done += m.length;
  }
  return {};
}

Result<> Qcow2::read_compressed(const Entry& entry, uint64_t in_cluster, std::span<const iovec> to) {
  // The entry's own bits say where; the L2 entry's other bits do not matter here.
  uint64_t word = entry.word & ~(kCopied | kCompressed);
  compressed_seen_ = true;
  ClusterCache::Data data = decompressed_->find_or_make(word);
  if (!data) {
    auto make = [&]() -> Result<ClusterCache::Data> {
      if (data_file_) return fail(ErrorKind::kCorrupt, "'" + file_->name() + "': a compressed cluster in an image with an external data file", EIO);
      std::vector<std::byte> in(geometry_.compressed_size(word));
      file_->event("read_compressed");
      TRY_VOID(file_->read(geometry_.compressed_offset(word), in));
      auto out = std::make_shared<std::vector<std::byte>>(cluster_size());
      if (!decompress_cluster(header_.compression, in, *out))
        return fail(ErrorKind::kCorrupt, "'" + file_->name() + "': a compressed cluster cannot be decompressed", EIO);
      return out;
    };
    auto made = make();
    if (made) data = *made;
    decompressed_->made(word, data);
    if (!made) return std::unexpected(std::move(made).error());
  }
  copy_to(to, data->data() + in_cluster);
  return {};
}

// Only from one decompressed cluster: everything else that is in memory goes by locate().
bool Qcow2::read_now(uint64_t offset, std::span<const iovec> to) {
  const uint64_t length = total(to), in_cluster = geometry_.in_cluster(offset);
  if (!compressed_seen_ || length > cluster_size() - in_cluster || offset > header_.size || length > header_.size - offset) return false;
  ClusterCache::Data data;
  {
    std::lock_guard lock(mutex_);
    auto m = map(offset, length, true);
    if (!m || !m->known || m->kind != Kind::kCompressed) return false;
    data = decompressed_->find(m->entry.word & ~(kCopied | kCompressed));
  }
  if (!data) return false;
  copy_to(to, data->data() + in_cluster);
  return true;
}

Result<Extent> Qcow2::status(uint64_t offset, uint64_t length) {
  std::lock_guard lock(mutex_);
  Mapping m;
  Extent out;
  // Tables in a row may continue an extent.
  for (uint64_t at = offset, end = offset + length; at < end;) {
    Mapping next = TRY(map(at, end - at));
    if (at == offset) {
      m = next;
    } else {
      bool in_file = m.kind == Kind::kNormal || m.kind == Kind::kZeroAllocated;
      bool same = next.kind == m.kind && m.kind != Kind::kCompressed && (!in_file || next.host == m.host + (at - offset));
      if (!same) break;
    }
    at += next.length;
    out.length = at - offset;
    if (m.kind == Kind::kCompressed) break;
  }
  l2_->trim();
  switch (m.kind) {
    case Kind::kUnallocated:
    case Kind::kUnallocatedInCluster: break;
    case Kind::kZero: out.allocated = out.zero = true; break;
    case Kind::kZeroAllocated:
      out.allocated = out.zero = true;
      out.host = m.host;
      out.file = &data_file();
      break;
    case Kind::kCompressed: out.allocated = out.data = out.compressed = true; break;
    default:
      out.allocated = out.data = true;
      if (header_.crypt == Crypt::kNone) out.host = m.host;
      out.file = &data_file();
  }
  return out;
}

}  // namespace vireo::storage::qcow2
