// SPDX-License-Identifier: Apache-2.0
// img resize, snapshot and amend: changes of one image.
#include <ctime>

#include <cstdio>
#include <cstring>

#include "cli/img/encryption.h"
#include "cli/img/snapshot_list.h"
#include "storage/image/luks_image.h"

namespace vireo::cli::img {
namespace {

namespace qcow2 = storage::qcow2;
std::unexpected<Error> bad(const std::string& why, int code = EINVAL) { return fail(ErrorKind::kInvalid, why, code); }

}  // namespace

Result<int> resize(int argc, char** argv) {
  // "-5M" is a size here, not an option: it is taken off before.
  std::string size;
  if (argc > 1) {
    size = argv[argc - 1];
    if (!size.empty() && (size[0] == '+' || size[0] == '-' || isdigit(static_cast<unsigned char>(size[0])))) --argc;
    else size.clear();
  }
  Arguments a = TRY(parse_arguments(argc, argv, "f:q", {"preallocation:", "shrink", "image-opts"}));
  if (size.empty() && a.names.size() == 2) size = a.names[1], a.names.pop_back();
  if (a.names.size() != 1 || size.empty()) return bad("Expecting image file name and size");
  storage::Preallocation mode = storage::Preallocation::kOff;
  if (std::string text = a.get("preallocation", "off"); text == "metadata") mode = storage::Preallocation::kMetadata;
  else if (text == "falloc") mode = storage::Preallocation::kFalloc;
  else if (text == "full") mode = storage::Preallocation::kFull;
  else if (text != "off") return bad("Invalid preallocation mode '" + text + "'");
  int sign = size[0] == '+' ? 1 : size[0] == '-' ? -1 : 0;
  uint64_t number = TRY(parse_bytes(sign ? size.substr(1) : size));
  auto image = TRY(img::open(a.names[0], {.format = a.get("f"), .writable = true, .image_options = a.has("image-opts")}));
  uint64_t now = image->size();
  if (sign < 0 && number >= now) return bad("New image size must be positive");
  uint64_t target = sign > 0 ? now + number : sign < 0 ? now - number : number;
  if (target == 0) return bad("New image size must be positive");
  if (target < now && mode != storage::Preallocation::kOff) return bad("Preallocation can only be used for growing images");
  if (target < now && !a.has("shrink")) {
    fprintf(stderr, "%s: Use the --shrink option to perform a shrink operation.\n", argv[0]);
    fprintf(stderr, "%s: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there.\n", argv[0]);
    return told();
  }
  target = (target + 511) / 512 * 512;
  TRY_VOID(image->resize(target, mode));
  TRY_VOID(image->close());
  if (!a.has("q")) printf("Image resized.\n");
  return 0;
}

Result<int> snapshot(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:la:c:d:qU", {"image-opts", "force-share=U"}));
  if (a.names.size() != 1) return bad("Expecting one image file name");
  int actions = a.has("l") + a.has("a") + a.has("c") + a.has("d");
  if (actions > 1) return bad("Cannot mix '-l', '-a', '-c', '-d'");
  const bool list = actions == 0 || a.has("l");
  if (a.has("U") && !list) return bad("Cannot use -U with a writing action");
  auto image = TRY(img::open(a.names[0], {.format = a.get("f"), .writable = !list, .force_share = a.has("U"), .image_options = a.has("image-opts"), .no_data = true}));
  auto* q = as_qcow2(*image);
  if (list) {
    if (q) print_snapshots(*q);
    return 0;
  }
  const std::string name = a.get(a.has("a") ? "a" : a.has("c") ? "c" : "d");
  if (a.has("c")) {
    if (!q) return bad("Could not create snapshot '" + name + "': Operation not supported");
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (auto made = q->create_snapshot(name, static_cast<uint32_t>(now.tv_sec), static_cast<uint32_t>(now.tv_nsec)); !made) {
      int code = made.error().code ? made.error().code : EIO;
      return bad("Could not create snapshot '" + name + "': -" + std::to_string(code) + " (" + strerror(code) + ")", code);
    }
  } else if (a.has("a")) {
    int index = q ? q->find_snapshot(name) : -1;
    if (index < 0) return bad("Could not apply snapshot '" + name + "': Failed to load snapshot: No such file or directory");
    if (auto done = q->apply_snapshot(static_cast<size_t>(index)); !done) return std::unexpected(std::move(done).error().within("Could not apply snapshot '" + name + "'"));
  } else {
    int index = q ? q->find_snapshot(name) : -1;
    if (index < 0) return bad("Could not delete snapshot '" + name + "': snapshot not found");
    if (auto done = q->delete_snapshot(static_cast<size_t>(index)); !done) return std::unexpected(std::move(done).error().within("Could not delete snapshot '" + name + "'"));
  }
  TRY_VOID(image->close());
  return 0;
}

Result<int> amend(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:o:t:pq", {"image-opts", "force"}));
  if (!a.has("o")) return bad("Must specify options (-o)");
  for (const std::string& o : a.all("o"))
    if (o == "help" || o == "?") {
      constexpr const char* kKeyOptions[] = {"iter-time=<num> - Time to spend in PBKDF in milliseconds", "keyslot=<num> - Select a single keyslot to modify explicitly",
                                             "new-secret=<str> - New secret to set in the matching keyslots. Empty string to erase",
                                             "old-secret=<str> - Select all keyslots that match this password", "state=<str> - Select new state of affected keyslots (active/inactive)"};
      if (a.get("f") == "luks") {
        printf("Amend options for 'luks':\n");
        for (const char* line : kKeyOptions) printf("  %s\n", line);
        return 0;
      }
      printf("Amend options for 'qcow2':\n  backing_file=<str>     - File name of a base image\n  backing_fmt=<str>      - Image format of the base image\n"
             "  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])\n  lazy_refcounts=<bool (on/off)> - Postpone refcount updates\n"
             "  size=<size>            - Virtual disk size\n");
      for (const char* line : kKeyOptions) printf("  encrypt.%s\n", line);
      return 0;
    }
  if (a.names.size() != 1) return bad("Expecting one image file name");
  auto image = TRY(img::open(a.names[0], {.format = a.get("f"), .writable = true, .cache = a.get("t", "writeback"), .image_options = a.has("image-opts"), .no_data = true}));
  auto* q = as_qcow2(*image);
  KeyChange keys;
  if (auto* luks = dynamic_cast<storage::LuksImage*>(image.get())) {
    for (auto& [key, value] : TRY(parse_options(a.all("o"))))
      if (!TRY(keys.take(key, value))) return bad("Invalid parameter '" + key + "'");
    TRY_VOID(change_keys(luks->luks(), luks->file(), keys, a.has("force"), "key-secret"));
    return 0;
  }
  if (!q) return bad("Format driver 'raw' does not support option amendment");
  qcow2::Header h = q->header();
  std::optional<uint64_t> size;
  for (auto& [key, value] : TRY(parse_options(a.all("o")))) {
    if (key == "compat") {
      uint32_t version = value == "0.10" || value == "v2" ? 2 : value == "1.1" || value == "v3" ? 3 : 0;
      if (!version) return bad("Unknown compatibility level " + value);
      if (version < h.version) {
        if (h.geometry.refcount_order != 4) return bad("compat=0.10 requires refcount_bits=16");
        if (h.has_data_file() || h.extended_l2() || h.compression != qcow2::Compression::kZlib) return bad("Cannot downgrade an image with incompatible features set");
        if (!q->snapshots().empty()) return bad("Internal snapshots prevent downgrade of image");
        // Nor have bitmaps.
        while (!q->bitmaps().empty()) TRY_VOID(q->remove_bitmap(std::string(q->bitmaps()[0].name)));
        // Zero clusters have no word in the old version: they become data where a backing file would show, else nothing.
        std::vector<std::byte> zeroes(q->cluster_size());
        for (uint64_t at = 0; at < q->size();) {
          auto here = TRY(q->status(at, q->size() - at));
          if (here.allocated && here.zero)
            for (uint64_t done = 0; done < here.length; done += zeroes.size())
              TRY_VOID(q->write(at + done, std::span<const std::byte>(zeroes).first(std::min<uint64_t>(zeroes.size(), here.length - done))));
          at += here.length;
        }
        h = q->header();
        h.compatible = h.autoclear = 0;
        h.unknown.clear();
      }
      h.version = version;
    } else if (key == "lazy_refcounts") {
      bool on = value == "on";
      if (!on && value != "off") return bad("Parameter 'lazy_refcounts' expects 'on' or 'off'");
      if (on && h.version < 3) return bad("Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)");
      h.compatible = on ? h.compatible | qcow2::compatible::kLazyRefcounts : h.compatible & ~qcow2::compatible::kLazyRefcounts;
    } else if (key == "backing_file") {
      h.backing_file = value;
      h.has_backing = !value.empty();
    } else if (key == "backing_fmt") {
      auto bytes = std::as_bytes(std::span(value));
      h.set(qcow2::extension::kBackingFormat, {bytes.begin(), bytes.end()});
    } else if (key == "data_file" && h.has_data_file()) {
      auto bytes = std::as_bytes(std::span(value));
      h.set(qcow2::extension::kDataFile, {bytes.begin(), bytes.end()});
    } else if (key == "size") {
      size = TRY(parse_bytes(value));
    } else if (key == "refcount_bits") {
      if (value != std::to_string(h.geometry.refcount_bits())) return fail(ErrorKind::kUnsupported, "refcount_bits: changing it is not supported yet");
    } else if (key.starts_with("encrypt.") && TRY(keys.take(key.substr(8), value))) {
      if (h.crypt == qcow2::Crypt::kNone) return bad("Can't amend encryption options - encryption not present");
      if (!q->luks()) return bad("Only LUKS encryption options can be amended");
    } else {
      return bad("Invalid parameter '" + key + "'\nThis option is only supported for image creation");
    }
  }
  if (keys.asked) TRY_VOID(change_keys(*q->luks(), q->file(), keys, a.has("force"), "encrypt.key-secret"));
  TRY_VOID(q->rewrite_header(h));
  if (size) TRY_VOID(q->resize((*size + 511) / 512 * 512, storage::Preallocation::kOff));
  TRY_VOID(q->close());
  return 0;
}

}  // namespace vireo::cli::img
