// SPDX-License-Identifier: Apache-2.0
// img measure: how large a file will be.
#include <bit>
#include <cinttypes>
#include <cstdio>

#include "cli/img/encryption.h"

namespace vireo::cli::img {

Result<int> measure(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:O:o:l:U", {"output:", "size:", "image-opts", "force-share=U"}));
  Output output = TRY(parse_output(a));
  const std::string format = a.get("O", "raw");
  if (a.names.size() > 1) return fail(ErrorKind::kInvalid, "At most one filename argument is allowed.");
  if (a.names.empty() && !a.has("size")) return fail(ErrorKind::kInvalid, "Either --size N or one filename must be specified.");
  if (!a.names.empty() && a.has("size")) return fail(ErrorKind::kInvalid, "--size N cannot be used together with a filename.");
  if (a.names.empty() && (a.has("image-opts") || a.has("f") || a.has("l")))
    return fail(ErrorKind::kInvalid, "--image-opts, -f, and -l can only be used with a filename argument.");
  if (format != "raw" && format != "qcow2" && format != "luks") return fail(ErrorKind::kInvalid, "Unknown file format '" + format + "'");
  uint64_t size = a.has("size") ? TRY(parse_bytes(a.get("size"))) : 0;
  std::shared_ptr<Image> image;
  if (!a.names.empty()) {
    image = TRY(img::open(a.names[0], {.format = a.get("f"), .force_share = a.has("U"), .image_options = a.has("image-opts")}));
    size = image->size();
  }
  uint64_t required, full;
  if (format == "raw") {
    required = full = (size + 511) / 512 * 512;
  } else if (format == "luks") {
    storage::LuksOptions luks;
    for (auto& [key, value] : TRY(parse_options(a.all("o")))) TRY(luks_option(key, value, luks));
    required = full = (TRY(storage::Luks::plan(luks))).area_bytes() + (size + 511) / 512 * 512;
  } else {
    auto config = TRY(qcow2_config(TRY(parse_options(a.all("o")))));
    config.size = (size + config.cluster_size - 1) / config.cluster_size * config.cluster_size;
    if (auto valid = storage::qcow2::validate(config); !valid) {
      if (valid.error().code == EFBIG) return fail(ErrorKind::kInvalid, "The image size is too large (try using a larger cluster size)", EFBIG);
      return std::unexpected(std::move(valid).error());
    }
    const bool all = config.preallocation == storage::Preallocation::kFull || config.preallocation == storage::Preallocation::kFalloc;
    uint64_t clusters = all ? config.size / config.cluster_size : 0;
    const bool shared = !config.backing_file.empty();
    if (image && !all) {
      uint64_t last = UINT64_MAX;
      for (uint64_t at = 0; at < size;) {
        // With a backing file only what the image itself has will be copied.
        storage::DeepExtent here;
        if (shared) {
          static_cast<storage::Extent&>(here) = TRY(image->status(at, size - at));
          here.zero = here.zero || !here.allocated;
        } else {
          here = TRY(storage::status_above(*image, nullptr, at, size - at));
        }
        if (!here.zero) {
          uint64_t first = at / config.cluster_size, end = (at + here.length - 1) / config.cluster_size;
          clusters += end - first + 1 - (first == last);
          last = end;
        }
        at += here.length;
      }
    }
    full = storage::qcow2::file_size_for(config, config.size / config.cluster_size);
    required = full - (config.size / config.cluster_size - clusters) * config.cluster_size;
  }
  auto* q = image ? as_qcow2(*image) : nullptr;
  bool bitmaps = q && format == "qcow2" && q->header().version >= 3;
  uint64_t bitmap_bytes = 0;
  if (bitmaps) {
    auto config = TRY(qcow2_config(TRY(parse_options(a.all("o")))));
    bitmaps = config.version >= 3;
    bitmap_bytes = storage::qcow2::bitmaps_size(q->bitmaps(), size, config.cluster_size);
  }
  const std::string line = "    \"bitmaps\": " + std::to_string(bitmap_bytes) + ",\n";
  if (output == Output::kJson) {
    printf("{\n%s    \"required\": %" PRIu64 ",\n    \"fully-allocated\": %" PRIu64 "\n}\n", bitmaps ? line.c_str() : "", required, full);
  } else {
    printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", required, full);
    if (bitmaps) printf("bitmaps size: %" PRIu64 "\n", bitmap_bytes);
  }
  return 0;
}

}  // namespace vireo::cli::img
