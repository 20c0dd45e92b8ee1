// SPDX-License-Identifier: Apache-2.0
#include "storage/qcow2/compression.h"

#include <libdeflate.h>
#include <zstd.h>

#include <mutex>

#include "base/delay_load.h"
#include "base/log.h"
#include "storage/file/aligned_buffer.h"
#include "storage/qcow2/noise.h"

VIREO_DELAY_LOADED(deflate);
VIREO_DELAY_LOADED(zstd);

namespace vireo::storage::qcow2 {
namespace {

struct FreeDeflate {
  void operator()(libdeflate_compressor* p) const { libdeflate_free_compressor(p); }
  void operator()(libdeflate_decompressor* p) const { libdeflate_free_decompressor(p); }
  void operator()(ZSTD_CCtx* p) const { ZSTD_freeCCtx(p); }
  void operator()(ZSTD_DCtx* p) const { ZSTD_freeDCtx(p); }
};
// The quickest whose output is no larger than that of zlib's default level with the 12-bit window that QEMU gives it; of zstd one whose output is
// less than one percent larger than QEMU's (level 3) and takes three quarters of the time.
constexpr int kDeflateLevel = 2, kZstdLevel = 2;

bool loaded(Compression method) {
  auto result = load_library(method == Compression::kZlib ? vireo_delay_load_deflate : vireo_delay_load_zstd);
  static std::once_flag told;
  if (!result) std::call_once(told, [&] { log(LogLevel::kError, "compressed clusters: %s", result.error().message.c_str()); });
  return result.has_value();
}

}  // namespace

std::vector<std::byte> compress_cluster(Compression method, std::span<const std::byte> in) {
  if (method == Compression::kZlib && is_noise(in)) return {};  // zstd sees that itself
  if (!loaded(method)) return {};
  thread_local AlignedBuffer buffer;
  thread_local size_t room = 0;
  if (room < in.size()) buffer = AlignedBuffer(room = in.size());
  if (!buffer.bytes) return room = 0, std::vector<std::byte>{};
  const std::span out(buffer.bytes, in.size() - 1);
  size_t size = 0;
  if (method == Compression::kZlib) {
    thread_local std::unique_ptr<libdeflate_compressor, FreeDeflate> worker(libdeflate_alloc_compressor(kDeflateLevel));
    size = libdeflate_deflate_compress(worker.get(), in.data(), in.size(), out.data(), out.size());
  } else {
    thread_local std::unique_ptr<ZSTD_CCtx, FreeDeflate> worker(ZSTD_createCCtx());
    size = ZSTD_compressCCtx(worker.get(), out.data(), out.size(), in.data(), in.size(), kZstdLevel);
    if (ZSTD_isError(size)) size = 0;
  }
  return {out.begin(), out.begin() + static_cast<ptrdiff_t>(size)};
}

bool decompress_cluster(Compression method, std::span<const std::byte> in, std::span<std::byte> out) {
  if (!loaded(method)) return false;
  if (method == Compression::kZlib) {
    thread_local std::unique_ptr<libdeflate_decompressor, FreeDeflate> worker(libdeflate_alloc_decompressor());
    size_t used = 0, made = 0;
    auto result = libdeflate_deflate_decompress_ex(worker.get(), in.data(), in.size(), out.data(), out.size(), &used, &made);
    return result == LIBDEFLATE_SUCCESS && made == out.size();
  }
  // Streaming: the end of the frame is not known from outside, and a writer may have used several frames.
  thread_local std::unique_ptr<ZSTD_DCtx, FreeDeflate> worker(ZSTD_createDCtx());
  ZSTD_DCtx_reset(worker.get(), ZSTD_reset_session_only);
  ZSTD_inBuffer source{in.data(), in.size(), 0};
  ZSTD_outBuffer target{out.data(), out.size(), 0};
  while (target.pos < target.size) {
    size_t before_in = source.pos, before_out = target.pos;
    size_t result = ZSTD_decompressStream(worker.get(), &target, &source);
    if (ZSTD_isError(result)) return false;
    if (before_in == source.pos && before_out == target.pos) return false;
  }
  return true;
}

ClusterCache::Data ClusterCache::look(uint64_t word) {
  for (auto it = kept_.begin(); it != kept_.end(); ++it)
    if (it->first == word) {
      if (it == kept_.begin()) return it->second;
      auto found = *it;
      kept_.erase(it);
      kept_.push_front(found);
      return found.second;
    }
  return nullptr;
}

ClusterCache::Data ClusterCache::find(uint64_t word) {
  std::lock_guard lock(mutex_);
  return look(word);
}

ClusterCache::Data ClusterCache::find_or_make(uint64_t word) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (Data found = look(word)) return found;
    if (std::ranges::find(making_, word) == making_.end()) break;
    made_.wait(lock);
  }
  making_.push_back(word);
  return nullptr;
}

void ClusterCache::made(uint64_t word, Data data) {
  {
    std::lock_guard lock(mutex_);
    std::erase(making_, word);
    if (data) kept_.emplace_front(word, std::move(data));
    if (kept_.size() > limit_) kept_.pop_back();
  }
  made_.notify_all();
}

void ClusterCache::clear() {
  std::lock_guard lock(mutex_);
  kept_.clear();
}

}  // namespace vireo::storage::qcow2
