// SPDX-License-Identifier: Apache-2.0
// Numbers of the qcow2 format. Spec: QEMU's docs/interop/qcow2.txt ("the specification" in this folder).
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace vireo::storage::qcow2 {

inline constexpr uint32_t kMagic = 0x514649fb;
inline constexpr unsigned kMinClusterBits = 9, kMaxClusterBits = 21;

// The header's fields by their offsets.
namespace at {
inline constexpr unsigned kBacking = 8, kBackingSize = 16, kClusterBits = 20, kSize = 24, kCrypt = 32, kL1Size = 36, kL1 = 40,
                          kReftable = 48, kReftableClusters = 56, kSnapshotCount = 60, kSnapshots = 64, kIncompatible = 72,
                          kCompatible = 80, kAutoclear = 88, kRefcountOrder = 96, kHeaderLength = 100, kCompression = 104;
}
inline constexpr unsigned kHeaderV2 = 72, kHeaderV3 = 104, kHeaderNow = 112;

namespace incompatible {
inline constexpr uint64_t kDirty = 1, kCorrupt = 2, kDataFile = 4, kCompression = 8, kExtendedL2 = 16, kKnown = 31;
}
namespace compatible {
inline constexpr uint64_t kLazyRefcounts = 1;
}
namespace autoclear {
inline constexpr uint64_t kBitmaps = 1, kRawData = 2, kKnown = 3;
}
namespace extension {
inline constexpr uint32_t kEnd = 0, kBackingFormat = 0xe2792aca, kFeatureNames = 0x6803f857, kBitmaps = 0x23852875,
                          kCrypto = 0x0537be77, kDataFile = 0x44415441;
}
enum class Crypt : uint32_t { kNone = 0, kAes = 1, kLuks = 2 };
enum class Compression : uint8_t { kZlib = 0, kZstd = 1 };

// What a reader accepts, so that a hostile header costs neither memory nor time. The first four are QEMU's.
inline constexpr uint64_t kMaxL1Bytes = 32 << 20, kMaxReftableBytes = 8 << 20, kMaxSnapshots = 65536, kMaxSnapshotExtra = 1024;
inline constexpr uint64_t kMaxSnapshotTable = 64 << 20, kMaxBackingName = 1023, kMaxBitmaps = 65535, kMaxExtension = 64 << 10;

// Bits of table entries.
inline constexpr uint64_t kCopied = 1ull << 63, kCompressed = 1ull << 62, kZeroFlag = 1;
inline constexpr uint64_t kOffsetMask = 0x00fffffffffffe00;  // of L1 and L2 entries
inline constexpr uint64_t kL1Reserved = 0x7f000000000001ff, kL2Reserved = 0x3f000000000001fe;
inline constexpr uint64_t kReftableMask = 0xfffffffffffffe00, kReftableReserved = 0x1ff;

template <class T>
T load(const void* p) {
  T value;
  memcpy(&value, p, sizeof value);
  if constexpr (sizeof(T) > 1) value = std::byteswap(value);
  return value;
}
template <class T>
void store(void* p, T value) {
  if constexpr (sizeof(T) > 1) value = std::byteswap(value);
  memcpy(p, &value, sizeof value);
}

inline constexpr uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }
inline constexpr uint64_t divide_up(uint64_t value, uint64_t by) { return value / by + (value % by != 0); }

// Sizes that follow from cluster size, entry kind and refcount width.
struct Geometry {
  unsigned cluster_bits = 16;
  bool extended_l2 = false;
  unsigned refcount_order = 4;

  uint64_t cluster_size() const { return 1ull << cluster_bits; }
  uint64_t in_cluster(uint64_t offset) const { return offset & (cluster_size() - 1); }
  uint64_t cluster_start(uint64_t offset) const { return offset & ~(cluster_size() - 1); }
  unsigned l2_entry_size() const { return extended_l2 ? 16 : 8; }
  unsigned l2_bits() const { return cluster_bits - (extended_l2 ? 4 : 3); }
  uint64_t l2_entries() const { return 1ull << l2_bits(); }
  uint64_t l2_index(uint64_t guest) const { return guest >> cluster_bits & (l2_entries() - 1); }
  uint64_t l1_index(uint64_t guest) const { return guest >> (cluster_bits + l2_bits()); }
  uint64_t l2_span() const { return 1ull << (cluster_bits + l2_bits()); }  // guest bytes of one L2 table
  uint64_t l1_entries(uint64_t size) const { return divide_up(size, l2_span()); }
  unsigned subclusters() const { return extended_l2 ? 32 : 1; }
  uint64_t subcluster_size() const { return cluster_size() / subclusters(); }
  unsigned refcount_bits() const { return 1u << refcount_order; }
  uint64_t refcount_max() const { return refcount_order == 6 ? UINT64_MAX : (1ull << refcount_bits()) - 1; }
  uint64_t refblock_entries() const { return cluster_size() * 8 >> refcount_order; }

  // A compressed cluster's entry: bits below `compressed_shift` are the byte offset, then sectors after the first one.
  unsigned compressed_shift() const { return 62 - (cluster_bits - 8); }
  uint64_t compressed_offset(uint64_t entry) const { return entry & ((1ull << compressed_shift()) - 1); }
  uint64_t compressed_sectors(uint64_t entry) const { return (entry >> compressed_shift() & ((1ull << (cluster_bits - 8)) - 1)) + 1; }
  // Bytes from the offset to the end of the last sector.
  uint64_t compressed_size(uint64_t entry) const { return compressed_sectors(entry) * 512 - (compressed_offset(entry) & 511); }
};

// One refcount of a block of them, by index.
inline uint64_t get_refcount(const std::byte* block, unsigned order, uint64_t index) {
  switch (order) {
    case 0: case 1: case 2: {
      unsigned bits = 1u << order, per = 8 / bits;
      return std::to_integer<uint64_t>(block[index / per]) >> (index % per * bits) & ((1u << bits) - 1);
    }
    case 3: return std::to_integer<uint64_t>(block[index]);
    case 4: return load<uint16_t>(block + index * 2);
    case 5: return load<uint32_t>(block + index * 4);
    default: return load<uint64_t>(block + index * 8);
  }
}
inline void set_refcount(std::byte* block, unsigned order, uint64_t index, uint64_t value) {
  switch (order) {
    case 0: case 1: case 2: {
      unsigned bits = 1u << order, per = 8 / bits, shift = static_cast<unsigned>(index % per) * bits;
      auto old = std::to_integer<unsigned>(block[index / per]);
      block[index / per] = static_cast<std::byte>((old & ~(((1u << bits) - 1) << shift)) | static_cast<unsigned>(value) << shift);
      return;
    }
    case 3: block[index] = static_cast<std::byte>(value); return;
    case 4: return store<uint16_t>(block + index * 2, static_cast<uint16_t>(value));
    case 5: return store<uint32_t>(block + index * 4, static_cast<uint32_t>(value));
    default: return store<uint64_t>(block + index * 8, value);
  }
}

}  // namespace vireo::storage::qcow2
