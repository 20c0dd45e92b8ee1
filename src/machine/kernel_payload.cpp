// SPDX-License-Identifier: Apache-2.0
#include "machine/kernel_payload.h"

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "base/delay_load.h"

VIREO_DELAY_LOADED(lz4);
VIREO_DELAY_LOADED(lzma);
VIREO_DELAY_LOADED(zlib);
VIREO_DELAY_LOADED(zstd);

namespace vireo {
namespace {

std::unexpected<Error> broken(const char* method) { return fail(ErrorKind::kCorrupt, std::string("its ") + method + " data are broken"); }

Result<Unpacked> unpack_gzip(std::span<const std::byte> payload, std::span<std::byte> out) {
  constexpr size_t kMost = std::numeric_limits<uInt>::max();
  if (payload.size() > kMost || out.size() > kMost) return fail(ErrorKind::kUnsupported, "gzip data of 4 GiB and more");
  TRY_VOID(load_library(vireo_delay_load_zlib));
  z_stream stream{};
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(payload.data()));
  stream.avail_in = static_cast<uInt>(payload.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) return fail(ErrorKind::kIo, "no memory to unpack it", ENOMEM);
  int code;
  do code = inflate(&stream, Z_SYNC_FLUSH);
  while (code == Z_OK);
  const size_t got = out.size() - stream.avail_out;
  inflateEnd(&stream);
  // Z_BUF_ERROR: nothing more to be done with this much of both.
  if (code != Z_STREAM_END && code != Z_BUF_ERROR) return broken("gzip");
  return Unpacked{got, code == Z_STREAM_END};
}

// xz, and the older .lzma.
Result<Unpacked> unpack_xz(bool alone, std::span<const std::byte> payload, std::span<std::byte> out) {
  constexpr uint64_t kMostMemory = 512 << 20;
  TRY_VOID(load_library(vireo_delay_load_lzma));
  lzma_stream stream = LZMA_STREAM_INIT;
  const std::unique_ptr<lzma_stream, decltype(&lzma_end)> end(&stream, &lzma_end);
  if ((alone ? lzma_alone_decoder(&stream, kMostMemory) : lzma_stream_decoder(&stream, kMostMemory, 0)) != LZMA_OK)
    return fail(ErrorKind::kIo, "no memory to unpack it", ENOMEM);
  stream.next_in = reinterpret_cast<const uint8_t*>(payload.data());
  stream.avail_in = payload.size();
  stream.next_out = reinterpret_cast<uint8_t*>(out.data());
  stream.avail_out = out.size();
  lzma_ret code = LZMA_OK;
  while (code == LZMA_OK) code = lzma_code(&stream, LZMA_RUN);
  if (code == LZMA_MEMLIMIT_ERROR) return fail(ErrorKind::kUnsupported, "its dictionary takes more than 512 MiB");
  // LZMA_BUF_ERROR: as above.
  if (code != LZMA_STREAM_END && code != LZMA_BUF_ERROR) return broken(alone ? "LZMA" : "xz");
  return Unpacked{out.size() - stream.avail_out, code == LZMA_STREAM_END};
}

constexpr size_t kLz4Block = 8 << 20;  // what a block of the "legacy" frame unpacks to, but for a frame's last one

// The packed blocks of a payload, one after the other. Spec: lz4_Frame_format.md, "Legacy frame": each has its size before it.
class Lz4Blocks {
 public:
  explicit Lz4Blocks(std::span<const std::byte> payload) : rest_(payload) {}

  // The next one; nothing at the end, or where it is broken.
  std::optional<std::span<const std::byte>> next() {
    constexpr uint32_t kMagic = 0x184c2102;
    uint32_t packed = kMagic;
    while (packed == kMagic) {  // of another frame
      if (rest_.size() < sizeof packed) return {};
      memcpy(&packed, rest_.data(), sizeof packed);
      rest_ = rest_.subspan(sizeof packed);
    }
    if (packed > rest_.size() || packed > LZ4_COMPRESSBOUND(kLz4Block)) {
      broken_ = true;
      return {};
    }
    const auto block = rest_.first(packed);
    rest_ = rest_.subspan(packed);
    return block;
  }
  bool broken() const { return broken_; }
  bool at_end() const { return !broken_ && rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
  bool broken_ = false;
};

int unpack_lz4_block(std::span<const std::byte> block, std::span<std::byte> out) {
  return LZ4_decompress_safe(reinterpret_cast<const char*>(block.data()), reinterpret_cast<char*>(out.data()), static_cast<int>(block.size()),
                             static_cast<int>(std::min(out.size(), kLz4Block)));
}

// Each block to its place by several threads. False: a block is not as long as its place, or broken.
bool unpack_lz4_at_once(std::span<const std::span<const std::byte>> blocks, std::span<std::byte> out) {
  constexpr size_t kMostThreads = 4;
  std::atomic<size_t> next{0};
  std::atomic<bool> fits{true};
  auto work = [&] {
    for (size_t i; fits && (i = next++) < blocks.size();) {
      const auto place = out.subspan(i * kLz4Block, std::min(kLz4Block, out.size() - i * kLz4Block));
      if (unpack_lz4_block(blocks[i], place) != static_cast<int>(place.size())) fits = false;
    }
  };
  std::vector<std::jthread> others;
  try {
    while (others.size() + 1 < std::min<size_t>({blocks.size(), kMostThreads, std::thread::hardware_concurrency()})) others.emplace_back(work);
  } catch (const std::system_error&) {  // no more threads: fewer do it
  }
  work();
  others.clear();
  return fits;
}

// As many blocks as fill `out` when all but the last are full; nothing where the payload has others.
std::vector<std::span<const std::byte>> full_blocks(Lz4Blocks packed, size_t out) {
  std::vector<std::span<const std::byte>> blocks;
  for (size_t filled = 0; filled < out; filled += kLz4Block) {
    const auto block = packed.next();
    if (!block) return {};
    blocks.push_back(*block);
  }
  return packed.at_end() ? blocks : decltype(blocks){};
}

Result<Unpacked> unpack_lz4(std::span<const std::byte> payload, std::span<std::byte> out) {
  TRY_VOID(load_library(vireo_delay_load_lz4));
  Lz4Blocks packed(payload);
  if (const auto blocks = full_blocks(packed, out.size()); blocks.size() > 1 && unpack_lz4_at_once(blocks, out)) return Unpacked{out.size(), true};
  size_t got = 0;
  bool cut = false;  // there is more in the last block than there was room for
  while (got < out.size()) {
    const auto block = packed.next();
    if (!block) break;
    const auto rest = out.subspan(got);
    int bytes = unpack_lz4_block(*block, rest);
    if (bytes < 0) {
      const int room = static_cast<int>(std::min(rest.size(), kLz4Block));
      cut = true;
      bytes = LZ4_decompress_safe_partial(reinterpret_cast<const char*>(block->data()), reinterpret_cast<char*>(rest.data()), static_cast<int>(block->size()), room, room);
    }
    if (bytes <= 0) return broken("LZ4");
    got += static_cast<size_t>(bytes);
  }
  if (packed.broken()) return broken("LZ4");
  return Unpacked{got, !cut && packed.at_end()};
}

Result<Unpacked> unpack_zstd(std::span<const std::byte> payload, std::span<std::byte> out) {
  TRY_VOID(load_library(vireo_delay_load_zstd));
  // All at once needs no window: only a beginning takes the long way.
  if (const size_t got = ZSTD_decompress(out.data(), out.size(), payload.data(), payload.size()); !ZSTD_isError(got)) return Unpacked{got, true};
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(), &ZSTD_freeDCtx);
  if (!context) return fail(ErrorKind::kIo, "no memory to unpack it", ENOMEM);
  ZSTD_inBuffer in{payload.data(), payload.size(), 0};
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  while (to.pos < to.size && in.pos < in.size)
    if (ZSTD_isError(ZSTD_decompressStream(context.get(), &to, &in))) return broken("zstd");
  return Unpacked{to.pos, false};
}

}  // namespace

std::optional<Packing> packing_of(std::span<const std::byte> payload) {
  auto begins = [&](std::initializer_list<uint8_t> magic) { return payload.size() >= magic.size() && memcmp(payload.data(), magic.begin(), magic.size()) == 0; };
  if (begins({0x1f, 0x8b})) return Packing::kGzip;
  if (begins({0xfd, '7', 'z', 'X', 'Z', 0})) return Packing::kXz;
  if (begins({0x5d, 0, 0})) return Packing::kLzma;
  if (begins({0x02, 0x21, 0x4c, 0x18})) return Packing::kLz4;
  if (begins({0x28, 0xb5, 0x2f, 0xfd})) return Packing::kZstd;
  return {};
}

Result<Unpacked> unpack(Packing packing, std::span<const std::byte> payload, std::span<std::byte> out) {
  switch (packing) {
    case Packing::kGzip: return unpack_gzip(payload, out);
    case Packing::kXz: return unpack_xz(false, payload, out);
    case Packing::kLzma: return unpack_xz(true, payload, out);
    case Packing::kLz4: return unpack_lz4(payload, out);
    case Packing::kZstd: return unpack_zstd(payload, out);
  }
  return fail(ErrorKind::kInternal, "an unknown packing");
}

}  // namespace vireo
