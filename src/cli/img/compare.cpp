// SPDX-License-Identifier: Apache-2.0
// img compare: exit status 0 the contents are the same, 1 they differ, 2 and more an error.
#include <cstdio>
#include <cstring>

#include "cli/img/img.h"

namespace vireo::cli::img {
namespace {

constexpr uint64_t kChunk = 2 << 20;

}  // namespace

Result<int> compare(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:F:T:pqsU", {"image-opts", "force-share=U"}));
  auto broken = [&](const std::string& text) {
    fprintf(stderr, "%s: %s\n", argv[0], text.c_str());
    return 2;
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
  std::vector<std::byte> data[2] = {std::vector<std::byte>(kChunk), std::vector<std::byte>(kChunk)};
  auto mismatch = [&](uint64_t offset) {
    say("Content mismatch at offset " + std::to_string(offset) + "!");
    return 1;
  };
  for (uint64_t at = 0; at < both;) {
    storage::DeepExtent extents[2];
    uint64_t length = both - at;
    for (int i = 0; i < 2; ++i) {
      auto extent = storage::status_above(*images[i], nullptr, at, length);
      if (!extent) return broken(extent.error().message);
      extents[i] = *extent;
      length = std::min(length, extent->length);
    }
    if (strict && extents[0].allocated != extents[1].allocated) {
      say("Strict mode: Offset " + std::to_string(at) + " block status mismatch!");
      return 1;
    }
    if (!extents[0].zero || !extents[1].zero) {
      length = std::min(length, kChunk);
      for (int i = 0; i < 2; ++i)
        if (auto got = images[i]->read(at, std::span(data[i]).first(length)); !got)
          return broken("Error while reading offset " + std::to_string(at) + " of " + a.names[static_cast<size_t>(i)] + ": " + strerror(got.error().code));
      if (memcmp(data[0].data(), data[1].data(), length) != 0)
        for (uint64_t i = 0;; ++i)
          if (data[0][i] != data[1][i]) return mismatch(at + i / 512 * 512);
    }
    at += length;
    progress.show(at, all);
  }
  if (both < all) {
    Image& longer = sizes[0] > sizes[1] ? *images[0] : *images[1];
    say("Warning: Image size mismatch!");
    for (uint64_t at = both; at < all;) {
      auto extent = storage::status_above(longer, nullptr, at, std::min(all - at, kChunk));
      if (!extent) return broken(extent.error().message);
      if (!extent->zero) {
        auto piece = std::span(data[0]).first(extent->length);
        if (auto got = longer.read(at, piece); !got) return broken(got.error().message);
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
