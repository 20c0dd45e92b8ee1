// SPDX-License-Identifier: Apache-2.0
// Kernels of a few bytes, packed by each method's own library. Debian's are unpacked by tests/integration/machine_options packed_kernels.
#include "machine/packed_kernel.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>
#include <vector>

#include "machine/kernel_payload.h"
#include "machine/kernel_relocation.h"

namespace vireo {
namespace {

using Bytes = std::vector<std::byte>;

constexpr uint64_t kStart = 0x1000000, kAlign = 0x200000, kTextAt = 0x2000, kTextSize = 0x3000, kDataAt = 0x7000, kDataSize = 0x800, kDataPhysical = kStart + 0x4000;
constexpr uint64_t kDataMemory = 0x1800, kInit = 0x10000, kEntry = 0x40;
constexpr uint64_t kRam = 64 << 20, kLow = 0x100000, kHigh = 60 << 20;
constexpr uint64_t kWide = 0x108, kNarrow = 0x204, kDistance = 0x30c;  // places, from the kernel's start
constexpr uint64_t kAddress = KernelRelocation::kMapStart + kStart + 0x123;
constexpr uint32_t kFarAway = 0x00c0ffee;

template <class T>
void put(Bytes& to, uint64_t at, const T& value) {
  memcpy(&to.at(at + sizeof value - 1) - (sizeof value - 1), &value, sizeof value);
}
template <class T>
T get(std::span<const std::byte> from, uint64_t at) {
  T value;
  memcpy(&value, &from[at], sizeof value);
  return value;
}

uint32_t place(uint64_t from_start) { return static_cast<uint32_t>(KernelRelocation::kMapStart + kStart + from_start); }

std::byte text(uint64_t at) { return static_cast<std::byte>(at * 7 + at / 256); }

// An ELF file of two parts, the second of which lies nearer to the first in memory, and its relocations.
Bytes kernel(const std::vector<uint32_t>& relocations, uint64_t last_physical = kDataPhysical) {
  Bytes file(kDataAt + kDataSize);
  Elf64_Ehdr head{};
  memcpy(head.e_ident, ELFMAG, SELFMAG);
  head.e_ident[EI_CLASS] = ELFCLASS64;
  head.e_type = ET_EXEC, head.e_machine = EM_X86_64, head.e_entry = kStart + kEntry, head.e_phoff = sizeof head, head.e_phnum = 2, head.e_shoff = file.size();
  put(file, 0, head);
  put(file, sizeof head, Elf64_Phdr{PT_LOAD, PF_R | PF_X, kTextAt, KernelRelocation::kMapStart + kStart, kStart, kTextSize, kTextSize, 0});
  put(file, sizeof head + sizeof(Elf64_Phdr), Elf64_Phdr{PT_LOAD, PF_R | PF_W, kDataAt, KernelRelocation::kMapStart + last_physical, last_physical, kDataSize, kDataMemory, 0});
  for (uint64_t i = 0; i < kTextSize; i++) file[kTextAt + i] = text(i);
  for (uint64_t i = 0; i < kDataSize; i++) file[kDataAt + i] = std::byte{0xda};
  put(file, kTextAt + kWide, kAddress);
  put(file, kTextAt + kNarrow, static_cast<uint32_t>(kAddress));
  put(file, kTextAt + kDistance, kFarAway);
  const size_t end = file.size();
  file.resize(end + relocations.size() * 4);
  if (!relocations.empty()) memcpy(&file[end], relocations.data(), relocations.size() * 4);
  return file;
}
const std::vector<uint32_t> kOld{0, place(kWide), 0, place(kDistance), 0, place(kNarrow)};
const std::vector<uint32_t> kNew{0, place(kWide), 0, place(kNarrow)};

Bytes pack(Packing packing, const Bytes& in) {
  Bytes out(in.size() * 2 + 4096);
  size_t size = 0;
  auto* from = reinterpret_cast<const uint8_t*>(in.data());
  auto* to = reinterpret_cast<uint8_t*>(out.data());
  switch (packing) {
    case Packing::kGzip: {
      z_stream stream{};
      deflateInit2(&stream, 1, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY);
      stream.next_in = const_cast<Bytef*>(from), stream.avail_in = static_cast<uInt>(in.size()), stream.next_out = to, stream.avail_out = static_cast<uInt>(out.size());
      EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
      size = out.size() - stream.avail_out;
      deflateEnd(&stream);
      break;
    }
    case Packing::kXz: EXPECT_EQ(lzma_easy_buffer_encode(0, LZMA_CHECK_CRC32, nullptr, from, in.size(), to, &size, out.size()), LZMA_OK); break;
    case Packing::kLzma: {
      lzma_options_lzma options;
      lzma_lzma_preset(&options, 0);
      lzma_stream stream = LZMA_STREAM_INIT;
      EXPECT_EQ(lzma_alone_encoder(&stream, &options), LZMA_OK);
      stream.next_in = from, stream.avail_in = in.size(), stream.next_out = to, stream.avail_out = out.size();
      EXPECT_EQ(lzma_code(&stream, LZMA_FINISH), LZMA_STREAM_END);
      size = out.size() - stream.avail_out;
      lzma_end(&stream);
      break;
    }
    case Packing::kLz4: {
      const uint32_t magic = 0x184c2102;
      const auto packed = static_cast<uint32_t>(LZ4_compress_default(reinterpret_cast<const char*>(from), reinterpret_cast<char*>(to + 8), static_cast<int>(in.size()), static_cast<int>(out.size() - 8)));
      memcpy(to, &magic, 4);
      memcpy(to + 4, &packed, 4);
      size = 8 + packed;
      break;
    }
    case Packing::kZstd: size = ZSTD_compress(to, out.size(), from, in.size(), 1); break;
  }
  out.resize(size);
  return out;
}

// As arch/x86/boot/compressed appends it; gzip's own end is that already.
Bytes payload(Packing packing, const Bytes& file) {
  Bytes out = pack(packing, file);
  if (packing != Packing::kGzip) {
    out.resize(out.size() + 4);
    put(out, out.size() - 4, static_cast<uint32_t>(file.size()));
  }
  return out;
}

class PackedKernel : public testing::Test {
 protected:
  PackedKernel() {
    header.pref_address = kStart, header.init_size = kInit, header.kernel_alignment = kAlign, header.relocatable_kernel = 1, header.xloadflags = XLF_KERNEL_64;
    memory = std::move(*GuestMemory::create({.size = kRam}, kRam));
    ram = memory->range(GuestAddress{0}, kRam);
    std::ranges::fill(ram, std::byte{0xcc});
  }
  std::optional<UnpackedKernel> unpacked(const Bytes& payload, std::string_view line = "") {
    auto got = unpack_kernel({.payload = payload, .header = header, .command_line = line, .low = kLow, .high = kHigh}, *memory);
    EXPECT_TRUE(std::ranges::all_of(ram.first(kLow), [](std::byte b) { return b == std::byte{0xcc}; }));
    EXPECT_TRUE(std::ranges::all_of(ram.subspan(kHigh), [](std::byte b) { return b == std::byte{0xcc}; }));
    return got;
  }
  // All but the places of relocations.
  void expect_whole(uint64_t at) {
    auto image = ram.subspan(at);
    auto moved = [](uint64_t i) { return (i >= kWide && i < kWide + 8) || (i >= kNarrow && i < kNarrow + 4) || (i >= kDistance && i < kDistance + 4); };
    for (uint64_t i = 0; i < kTextSize; i++) ASSERT_TRUE(moved(i) || image[i] == text(i)) << i;
    for (uint64_t i = 0; i < kDataSize; i++) ASSERT_EQ(image[kDataPhysical - kStart + i], std::byte{0xda}) << i;
    for (uint64_t i = kDataSize; i < kDataMemory; i++) ASSERT_EQ(image[kDataPhysical - kStart + i], std::byte{0}) << i;
  }
  setup_header header{};
  std::unique_ptr<GuestMemory> memory;
  std::span<std::byte> ram;
};

constexpr Packing kAll[] = {Packing::kGzip, Packing::kXz, Packing::kLzma, Packing::kLz4, Packing::kZstd};

TEST_F(PackedKernel, IsUnpackedFromEveryPacking) {
  for (Packing packing : kAll) {
    std::ranges::fill(ram, std::byte{0xcc});
    auto got = unpacked(payload(packing, kernel(kOld)), "quiet nokaslr");
    ASSERT_TRUE(got) << static_cast<int>(packing);
    EXPECT_EQ(got->entry, kStart + kEntry);
    EXPECT_FALSE(got->randomized);
    expect_whole(kStart);
    EXPECT_EQ(get<uint64_t>(ram, kStart + kWide), kAddress);
  }
}

TEST_F(PackedKernel, IsRandomlyPlacedWithItsAddressesMoved) {
  for (const auto& list : {kOld, kNew}) {
    const Bytes packed = payload(Packing::kLz4, kernel(list));
    std::set<uint64_t> starts, shifts;
    for (int i = 0; i < 40; i++) {
      auto got = unpacked(packed, "quiet -- nokaslr");
      ASSERT_TRUE(got);
      EXPECT_TRUE(got->randomized);
      const uint64_t start = got->entry - kEntry;
      ASSERT_EQ(start % kAlign, 0u);
      ASSERT_GE(start, kStart);
      ASSERT_LE(start + kInit, kHigh);
      expect_whole(start);
      const uint64_t shift = get<uint64_t>(ram, start + kWide) - kAddress;
      EXPECT_EQ(shift % kAlign, 0u);
      EXPECT_LE(kStart + shift + kInit, 1u << 30);
      EXPECT_EQ(get<uint32_t>(ram, start + kNarrow), static_cast<uint32_t>(kAddress + shift));
      EXPECT_EQ(get<uint32_t>(ram, start + kDistance), list == kOld ? static_cast<uint32_t>(kFarAway - shift) : kFarAway);
      starts.insert(start), shifts.insert(shift);
    }
    // Of 22 places and 504 addresses; the same one 40 times would be a wonder.
    EXPECT_GT(starts.size(), 1u);
    EXPECT_GT(shifts.size(), 1u);
  }
}

TEST_F(PackedKernel, StaysInPlaceWhereTheCommandLineChangesTheMemoryMap) {
  for (int i = 0; i < 10; i++) {
    auto got = unpacked(payload(Packing::kLz4, kernel(kOld)), "mem=40M quiet");
    ASSERT_TRUE(got);
    EXPECT_EQ(got->entry, kStart + kEntry);
    EXPECT_TRUE(got->randomized);
  }
}

TEST_F(PackedKernel, WithoutRelocationsIsNotMoved) {
  for (int i = 0; i < 10; i++) {
    auto got = unpacked(payload(Packing::kLz4, kernel({})));
    ASSERT_TRUE(got);
    EXPECT_EQ(got->entry, kStart + kEntry);
    EXPECT_FALSE(got->randomized);
  }
}

TEST_F(PackedKernel, LeavesToTheGuestWhatItDoesNotKnow) {
  const Bytes good = payload(Packing::kZstd, kernel(kOld));
  EXPECT_TRUE(unpacked(good));
  Bytes other = good;
  other[0] = std::byte{'B'};
  EXPECT_FALSE(unpacked(other)) << "another packing";
  EXPECT_FALSE(unpacked({})) << "no payload";
  other = good;
  put(other, other.size() - 4, uint32_t{100 << 20});
  EXPECT_FALSE(unpacked(other)) << "a size beyond the memory";
  put(other, other.size() - 4, static_cast<uint32_t>(kDataAt));
  EXPECT_FALSE(unpacked(other)) << "a size short of the file";
  put(other, other.size() - 4, static_cast<uint32_t>(kernel(kOld).size() + 1));
  EXPECT_FALSE(unpacked(other)) << "a size beyond the file";
  EXPECT_FALSE(unpacked(payload(Packing::kLz4, kernel({0, place(0x100), 0, 0, 0})))) << "five lists";
  EXPECT_FALSE(unpacked(payload(Packing::kLz4, kernel({place(kWide), 0, 0})))) << "no zero first";
  EXPECT_FALSE(unpacked(payload(Packing::kLz4, kernel({0, place(kInit - 7), 0, 0})))) << "a place at the end";
  EXPECT_FALSE(unpacked(payload(Packing::kLz4, kernel({0, 0, 0, place(0) - 1})))) << "a place before the start";
  EXPECT_FALSE(unpacked(payload(Packing::kLz4, kernel(kOld, kStart + kInit - kDataMemory + 1)))) << "a part behind the end";
  EXPECT_FALSE(unpacked(payload(Packing::kLz4, kernel(kOld, kStart + 0x2000)))) << "parts over one another";
  EXPECT_FALSE(unpacked(payload(Packing::kLz4, kernel(kOld, kStart + 0x6000)))) << "a part that would have to be moved up";
  header.xloadflags = 0;
  EXPECT_FALSE(unpacked(good)) << "a 32-bit kernel";
}

TEST_F(PackedKernel, TellsOfWhatItHasWrittenAlsoWhereItGivesUp) {
  uint64_t told = 0;
  memory->set_write_notice([&](GuestAddress start, uint64_t size) {
    EXPECT_EQ(raw(start), kStart - kTextAt);
    told += size;
  });
  EXPECT_FALSE(unpacked(payload(Packing::kLz4, kernel({0, place(kInit - 7), 0, 0})), "mem=40M"));
  EXPECT_EQ(told, kTextAt + kInit);
}

TEST_F(PackedKernel, CutOffPayloadsAreRefusedAtEachLength) {
  for (Packing packing : kAll) {
    const Bytes packed = pack(packing, kernel(kOld));
    for (size_t length = 0; length < packed.size(); length += 1 + packed.size() / 40) {
      Bytes cut(packed.begin(), packed.begin() + static_cast<ptrdiff_t>(length));
      cut.resize(length + 4);
      put(cut, length, static_cast<uint32_t>(kernel(kOld).size()));
      EXPECT_FALSE(unpacked(cut)) << static_cast<int>(packing) << ", " << length;
    }
  }
}

TEST(KernelPayload, StopsWhereTheOutputIsFull) {
  Bytes file(10 << 20);  // LZ4's blocks are 8 MiB
  std::iota(reinterpret_cast<uint32_t*>(file.data()), reinterpret_cast<uint32_t*>(file.data() + file.size()), 0);
  for (Packing packing : kAll) {
    Bytes packed;
    if (packing == Packing::kLz4) {
      for (size_t at = 0; at < file.size(); at += 8 << 20) {
        Bytes block = pack(packing, Bytes(file.begin() + static_cast<ptrdiff_t>(at), file.begin() + static_cast<ptrdiff_t>(std::min(at + (8 << 20), file.size()))));
        packed.insert(packed.end(), block.begin() + (at ? 4 : 0), block.end());
      }
    } else {
      packed = pack(packing, file);
    }
    ASSERT_EQ(packing_of(packed), packing);
    for (size_t size : {size_t{1}, size_t{4096}, size_t{9 << 20}, file.size(), file.size() + 100}) {
      Bytes out(size, std::byte{0xee});
      auto got = unpack(packing, packed, out);
      ASSERT_TRUE(got) << static_cast<int>(packing) << ", " << size << ": " << got.error().message;
      ASSERT_EQ(got->size, std::min(size, file.size())) << static_cast<int>(packing);
      ASSERT_EQ(memcmp(out.data(), file.data(), got->size), 0) << static_cast<int>(packing);
      EXPECT_EQ(got->complete, size >= file.size()) << static_cast<int>(packing) << ", " << size;
    }
  }
}

}  // namespace
}  // namespace vireo
