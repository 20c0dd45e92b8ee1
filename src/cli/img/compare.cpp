// SPDX-License-Identifier: Apache-2.0
// img compare: exit status 0 the contents are the same, 1 they differ, 2 and more an error.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>

#include "cli/img/img.h"
#include "storage/file/aligned_buffer.h"

namespace vireo::cli::img {
namespace {

constexpr uint64_t kChunk = 1 << 20;
constexpr int kOpenFailed = 2, kStatusFailed = 3, kReadFailed = 4;  // exit status

}  // namespace

Result<int> compare(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:F:T:pqsU", {"image-opts", "force-share=U"}));
  auto broken = [&](const std::string& text, int status = kOpenFailed) {
    fprintf(stderr, "%s: %s\n", argv[0], text.c_str());
    return status;
  };
  if (a.names.size() != 2) return broken("Expecting two image file names");
  const bool quiet = a.has("q"), strict = a.has("s");
  auto say = [&](const std::string& text) {
    if (!quiet) printf("%s\n", text.c_str());
  };
  std::shared_ptr<Image> images[2];
  for (int i = 0; i < 2; ++i) {
    auto image = img::open(a.names[static_cast<size_t>(i)], {.format = a.get(i ? "F" : "f"), .force_share = a.has("U"), .cache = a.get("T", "writeback"), .image_options = a.has("image-opts")});
    if (!image) return broken(image.error().message);
    images[i] = std::move(*image);
  }
  uint64_t sizes[2] = {images[0]->size(), images[1]->size()};
  if (strict && sizes[0] != sizes[1]) {
    say("Strict mode: Image size mismatch!");
    return 1;
  }
  Progress progress(a.has("p"));
  uint64_t both = std::min(sizes[0], sizes[1]), all = std::max(sizes[0], sizes[1]);
  auto mismatch = [&](uint64_t offset) {
    say("Content mismatch at offset " + std::to_string(offset) + "!");
    return 1;
  };
  // Several threads, each with the next stretch; the lowest offset at which something is to be said counts.
  struct Verdict {
    uint64_t offset = UINT64_MAX;
    std::function<int()> tell;
  } verdict;
  std::mutex mutex;
  uint64_t next = 0;
  auto found = [&](uint64_t offset, std::function<int()> tell) {
    std::lock_guard lock(mutex);
    if (offset < verdict.offset) verdict = {offset, std::move(tell)};
  };
  auto work = [&] {
    storage::AlignedBuffer data[2] = {storage::AlignedBuffer(kChunk), storage::AlignedBuffer(kChunk)};
    for (;;) {
      storage::DeepExtent extents[2];
      uint64_t at, length;
      {
        std::lock_guard lock(mutex);
        at = next;
        if (at >= both || at >= verdict.offset) return;
        length = both - at;
        for (int i = 0; i < 2; ++i) {
          auto extent = storage::status_above(*images[i], nullptr, at, length);
          if (!extent) {
            verdict = {at, [&, text = extent.error().message] { return broken(text, kStatusFailed); }};
            return;
          }
          extents[i] = *extent;
          length = std::min(length, extent->length);
        }
        if (strict && extents[0].allocated != extents[1].allocated) {
          verdict = {at, [&, at] { return say("Strict mode: Offset " + std::to_string(at) + " block status mismatch!"), 1; }};
          return;
        }
        if (!extents[0].zero || !extents[1].zero) length = std::min(length, kChunk);
        next = at + length;
        progress.show(at, all);
      }
      if (extents[0].zero && extents[1].zero) continue;
      for (int i = 0; i < 2; ++i) {
        Result<> got = data[i].bytes ? images[i]->read(at, std::span(data[i].bytes, length)) : fail(ErrorKind::kIo, "no memory", ENOMEM);
        if (got) continue;
        return found(at, [&, at, i, code = got.error().code] {
          return broken("Error while reading offset " + std::to_string(at) + " of " + a.names[static_cast<size_t>(i)] + ": " + strerror(code), kReadFailed);
        });
      }
      if (memcmp(data[0].bytes, data[1].bytes, length) == 0) continue;
      uint64_t i = static_cast<uint64_t>(std::mismatch(data[0].bytes, data[0].bytes + length, data[1].bytes).first - data[0].bytes);
      return found(at + i / 512 * 512, [&, at, i] { return mismatch(at + i / 512 * 512); });
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::clamp(std::thread::hardware_concurrency(), 2u, 8u); ++i) threads.emplace_back(work);
  for (auto& t : threads) t.join();
  if (verdict.tell) return verdict.tell();
  if (both < all) {
    Image& longer = sizes[0] > sizes[1] ? *images[0] : *images[1];
    say("Warning: Image size mismatch!");
    for (uint64_t at = both; at < all;) {
      auto extent = storage::status_above(longer, nullptr, at, std::min(all - at, kChunk));
      if (!extent) return broken(extent.error().message, kStatusFailed);
      if (!extent->zero) {
        std::vector<std::byte> piece(extent->length);
        if (auto got = longer.read(at, std::span(piece)); !got)
          return broken("Error while reading offset " + std::to_string(at) + " of " + a.names[sizes[0] > sizes[1] ? 0 : 1] + ": " + strerror(got.error().code), kReadFailed);
        for (uint64_t i = 0; i < piece.size(); ++i)
          if (piece[i] != std::byte{0}) return mismatch(at + i / 512 * 512);
      }
      at += extent->length;
    }
  }
  progress.end();
  say("Images are identical.");
  return 0;
}

}  // namespace vireo::cli::img
