// SPDX-License-Identifier: Apache-2.0
#include "storage/qcow2/bitmap.h"

#include <algorithm>
#include <bit>

namespace vireo::storage::qcow2 {

uint64_t bitmap_pieces(uint64_t disk_size, unsigned granularity_bits, uint64_t cluster_size) {
  return divide_up(divide_up(divide_up(disk_size, 1ull << granularity_bits), 8), cluster_size);
}

uint64_t bitmaps_size(const std::vector<Bitmap>& bitmaps, uint64_t disk_size, uint64_t cluster_size) {
  uint64_t size = 0, directory = 0;
  for (const Bitmap& b : bitmaps) {
    if (b.inconsistent() || b.foreign()) continue;
    uint64_t pieces = bitmap_pieces(disk_size, b.granularity_bits, cluster_size);
    size += pieces * cluster_size + round_up(pieces * 8, cluster_size);
    directory += round_up(24 + b.name.size(), 8);
  }
  return size + round_up(directory, cluster_size);
}

std::byte* BitmapBits::writable(Piece& piece) {
  if (!piece.bytes) {
    piece.bytes = std::make_unique<std::byte[]>(piece_bytes_);
    if (piece.ones) memset(piece.bytes.get(), 0xff, piece_bytes_);
    piece.ones = false;
  }
  return piece.bytes.get();
}

bool BitmapBits::get(uint64_t bit) const {
  const Piece& piece = pieces_[bit / bits_per_piece()];
  if (!piece.bytes) return piece.ones;
  uint64_t in = bit % bits_per_piece();
  return (std::to_integer<unsigned>(piece.bytes[in / 8]) >> (in % 8) & 1) != 0;
}

void BitmapBits::set(uint64_t offset, uint64_t length) {
  if (offset >= disk_size_ || length == 0) return;
  uint64_t bit = offset >> granularity_bits_, end = (offset + std::min(length, disk_size_ - offset) - 1) / granularity() + 1;
  while (bit < end) {
    Piece& piece = pieces_[bit / bits_per_piece()];
    uint64_t in = bit % bits_per_piece(), n = std::min(end - bit, bits_per_piece() - in);
    bit += n;
    if (!piece.bytes && piece.ones) continue;
    if (n == bits_per_piece()) {
      piece.bytes.reset();
      piece.ones = true;
      continue;
    }
    std::byte* bytes = writable(piece);
    for (; n && in % 8; ++in, --n) bytes[in / 8] |= static_cast<std::byte>(1u << in % 8);
    memset(bytes + in / 8, 0xff, n / 8);
    in += n / 8 * 8;
    for (n %= 8; n; ++in, --n) bytes[in / 8] |= static_cast<std::byte>(1u << in % 8);
  }
}

void BitmapBits::clear() {
  for (Piece& piece : pieces_) piece = {};
}

void BitmapBits::resize(uint64_t disk_size) {
  uint64_t had = divide_up(disk_size_, granularity()), has = divide_up(disk_size, granularity());
  pieces_.resize(divide_up(has, bits_per_piece()));
  // Bits beyond the end stay zero, so that they are not there again when the disk grows.
  uint64_t from = std::min(had, has);
  disk_size_ = disk_size;
  if (from % bits_per_piece() && !pieces_.empty() && from / bits_per_piece() < pieces_.size()) {
    Piece& piece = pieces_[from / bits_per_piece()];
    if (!piece.bytes && !piece.ones) return;
    std::byte* bytes = writable(piece);
    uint64_t in = from % bits_per_piece();
    for (; in % 8; ++in) bytes[in / 8] &= static_cast<std::byte>(~(1u << in % 8));
    memset(bytes + in / 8, 0, piece_bytes_ - in / 8);
  }
}

BitmapBits::Run BitmapBits::run(uint64_t offset) const {
  if (offset >= disk_size_) return {};
  const uint64_t bits = divide_up(disk_size_, granularity());
  uint64_t first = offset >> granularity_bits_, bit = first;
  const bool dirty = get(first);
  const auto all = dirty ? std::byte{0xff} : std::byte{0};
  while (bit < bits) {
    const Piece& piece = pieces_[bit / bits_per_piece()];
    uint64_t in = bit % bits_per_piece(), end = std::min(bits, bit - in + bits_per_piece());
    if (!piece.bytes) {
      if (piece.ones != dirty) break;
      bit = end;
      continue;
    }
    if (in % 8 == 0 && end - bit >= 8) {
      uint64_t from = in / 8, to = (in + end - bit) / 8;
      while (from < to && piece.bytes[from] == all) ++from;
      bit += from * 8 - in;
      if (from == to) {
        if (bit == end) continue;
      }
    }
    bool stop = false;
    // What is left of a byte that is not whole.
    for (uint64_t stop_at = std::min(end, bit / 8 * 8 + 8); bit < stop_at; ++bit)
      if (get(bit) != dirty) {
        stop = true;
        break;
      }
    if (stop) break;
  }
  return {std::min(disk_size_, bit << granularity_bits_) - offset, dirty};
}

void BitmapBits::merge(const BitmapBits& other) {
  for (uint64_t at = 0; at < std::min(disk_size_, other.disk_size_);) {
    Run run = other.run(at);
    if (run.dirty) set(at, run.length);
    at += run.length;
  }
}

uint64_t BitmapBits::dirty_bytes() const {
  uint64_t sum = 0;
  for (uint64_t at = 0; at < disk_size_;) {
    Run one = run(at);
    if (one.dirty) sum += one.length;
    at += one.length;
  }
  return sum;
}

Result<> check_bitmap_table(File& file, const Geometry& g, const Bitmap& bitmap) {
  auto bad = [&](const char* why) { return fail(ErrorKind::kCorrupt, "bitmap '" + bitmap.name + "': " + why, EINVAL); };
  if (bitmap.table_entries == 0) return {};
  if (g.in_cluster(bitmap.table_offset) || bitmap.table_offset == 0) return bad("its table is not aligned");
  if (bitmap.table_entries * g.cluster_size() > kMaxBitmapBytes + g.cluster_size()) return bad("its table is too large");
  if (bitmap.table_offset > file.size() || bitmap.table_entries * 8ull > round_up(file.size(), g.cluster_size()) - bitmap.table_offset)
    return bad("its table lies beyond the end of the file");
  return {};
}

Result<> read_bitmap_table(File& file, const Geometry& g, Bitmap& bitmap) {
  auto bad = [&](const char* why) { return fail(ErrorKind::kCorrupt, "bitmap '" + bitmap.name + "': " + why, EINVAL); };
  TRY_VOID(check_bitmap_table(file, g, bitmap));
  if (bitmap.table_entries == 0) return {};
  std::vector<std::byte> raw(bitmap.table_entries * 8ull);
  TRY_VOID(file.read(bitmap.table_offset, raw));
  std::vector<uint64_t> table(bitmap.table_entries);
  for (size_t i = 0; i < table.size(); ++i) {
    auto entry = load<uint64_t>(&raw[i * 8]);
    uint64_t offset = entry & kOffsetMask;
    if (entry & kBitmapReserved || g.in_cluster(offset) || (offset && entry & kAllOnes)) return bad("an entry of its table is invalid");
    if (offset && offset >= file.size()) return bad("an entry of its table lies beyond the end of the file");
    table[i] = entry;
  }
  bitmap.table = std::move(table);
  return {};
}

Result<> read_bitmap_bits(File& file, const Geometry& g, uint64_t disk_size, Bitmap& bitmap) {
  auto bad = [&](const char* why) { return fail(ErrorKind::kCorrupt, "bitmap '" + bitmap.name + "': " + why, EINVAL); };
  if (bitmap.foreign()) return fail(ErrorKind::kUnsupported, "bitmap '" + bitmap.name + "' is of a kind that is not known", ENOTSUP);
  uint64_t pieces = bitmap_pieces(disk_size, bitmap.granularity_bits, g.cluster_size());
  if (bitmap.table_entries < pieces) return bad("its table is too small for the disk");
  if (pieces * g.cluster_size() > kMaxBitmapBytes + g.cluster_size()) return bad("it is too large");
  if (bitmap.table.empty()) TRY_VOID(read_bitmap_table(file, g, bitmap));
  BitmapBits bits(disk_size, bitmap.granularity_bits, g.cluster_size());
  for (uint64_t i = 0; i < pieces; ++i) {
    uint64_t entry = bitmap.table[i];
    BitmapBits::Piece& piece = bits.pieces()[i];
    if (uint64_t offset = entry & kOffsetMask) {
      piece.bytes = std::make_unique<std::byte[]>(g.cluster_size());
      TRY_VOID(file.read(offset, {piece.bytes.get(), g.cluster_size()}));
      // A hole in the file costs nothing there, and is to cost nothing here.
      if (all_zero(piece.bytes.get(), g.cluster_size())) piece.bytes.reset();
    } else {
      piece.ones = entry & kAllOnes;
    }
  }
  // What others left behind the last bit does not count.
  bits.resize(disk_size);
  bitmap.bits = std::move(bits);
  return {};
}

}  // namespace vireo::storage::qcow2
