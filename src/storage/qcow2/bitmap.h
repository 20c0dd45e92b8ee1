// SPDX-License-Identifier: Apache-2.0
// A dirty bitmap: which parts of the disk were written since some moment. Its bits are kept in pieces of one cluster of the
// file each, as they lie there, so that a piece that is all zeroes or all ones costs nothing. Spec: "Bitmaps".
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "storage/qcow2/header.h"

namespace vireo::storage::qcow2 {

inline constexpr unsigned kMinGranularityBits = 9, kMaxGranularityBits = 31;
inline constexpr uint64_t kMaxBitmapName = 1023, kMaxBitmapBytes = 512 << 20;
namespace bitmap_flag {
inline constexpr uint32_t kInUse = 1, kAuto = 2, kExtraCompatible = 4, kKnown = 7;
}
// Entries of a bitmap's table: an offset, or a flag that says what all its bits are.
inline constexpr uint64_t kAllOnes = 1, kBitmapReserved = 0xff000000000001fe;

class BitmapBits {
 public:
  BitmapBits(uint64_t disk_size, unsigned granularity_bits, uint64_t piece_bytes)
      : granularity_bits_(granularity_bits), piece_bytes_(piece_bytes) {
    resize(disk_size);
  }
  struct Piece {
    bool ones = false;                  // without bytes: all of them
    std::unique_ptr<std::byte[]> bytes;
  };
  uint64_t granularity() const { return 1ull << granularity_bits_; }
  uint64_t disk_size() const { return disk_size_; }
  std::vector<Piece>& pieces() { return pieces_; }
  const std::vector<Piece>& pieces() const { return pieces_; }
  void set(uint64_t offset, uint64_t length);  // bytes of the disk
  void clear();
  void resize(uint64_t disk_size);             // what is new is clean
  void merge(const BitmapBits& other);         // of any granularity
  // The next run of one kind from `offset` on, to its end or the disk's.
  struct Run {
    uint64_t length = 0;
    bool dirty = false;
  };
  Run run(uint64_t offset) const;
  uint64_t dirty_bytes() const;

 private:
  uint64_t bits_per_piece() const { return piece_bytes_ * 8; }
  std::byte* writable(Piece& piece);
  bool get(uint64_t bit) const;

  unsigned granularity_bits_;
  uint64_t piece_bytes_, disk_size_ = 0;
  std::vector<Piece> pieces_;
};

struct Bitmap {
  std::string name;
  unsigned granularity_bits = 16;
  uint32_t flags = 0;
  uint8_t type = 1;
  uint64_t table_offset = 0;
  uint32_t table_entries = 0;
  std::vector<std::byte> extra;  // unknown, kept as it is
  uint64_t flags_at = 0;         // in the directory
  std::vector<uint64_t> table;   // as in the file
  std::optional<BitmapBits> bits;
  bool ours = false;             // marked as in use by us: kept up to date, and stored when the image is closed
  bool broken = false;           // its table cannot be right

  bool enabled() const { return flags & bitmap_flag::kAuto; }
  bool inconsistent() const { return (flags & bitmap_flag::kInUse && !ours) || broken; }
  // Made by somebody who knows more than we do.
  bool foreign() const {
    return type != 1 || flags & ~bitmap_flag::kKnown || (!extra.empty() && !(flags & bitmap_flag::kExtraCompatible)) ||
           granularity_bits < kMinGranularityBits || granularity_bits > kMaxGranularityBits;
  }
};

// Where the directory lies, by the header extension; nothing when there is none that counts.
struct BitmapDirectory {
  uint64_t offset = 0, bytes = 0;
  std::vector<Bitmap> bitmaps;
};
Result<BitmapDirectory> read_bitmap_directory(File& file, const Header& header);
// `flags_at`: where each one's flags lie in it.
std::vector<std::byte> serialize_bitmap_directory(const std::vector<Bitmap>& bitmaps, std::vector<uint64_t>& flags_at);
std::vector<std::byte> bitmaps_extension(uint32_t count, uint64_t offset, uint64_t bytes);
// Whether its table can be where and as long as the directory says.
Result<> check_bitmap_table(File& file, const Geometry& geometry, const Bitmap& bitmap);
// The table and, into `bits`, what it names.
Result<> read_bitmap_table(File& file, const Geometry& geometry, Bitmap& bitmap);
Result<> read_bitmap_bits(File& file, const Geometry& geometry, uint64_t disk_size, Bitmap& bitmap);
// Pieces of one cluster that the bits of such a disk take.
uint64_t bitmap_pieces(uint64_t disk_size, unsigned granularity_bits, uint64_t cluster_size);
// Bytes of the file that bitmaps like these take at most in an image of that cluster size.
uint64_t bitmaps_size(const std::vector<Bitmap>& bitmaps, uint64_t disk_size, uint64_t cluster_size);

}  // namespace vireo::storage::qcow2
