// SPDX-License-Identifier: Apache-2.0
// img amend: options of an image that exists.
#include <bit>
#include <cstdio>
#include <cstring>

#include "cli/img/encryption.h"
#include "storage/image/luks_image.h"

namespace vireo::cli::img {
namespace {

namespace qcow2 = storage::qcow2;
std::unexpected<Error> bad(const std::string& why, int code = EINVAL) { return fail(ErrorKind::kInvalid, why, code); }

void print_help(const std::string& format) {
  constexpr const char* kKeyOptions[] = {"iter-time=<num> - Time to spend in PBKDF in milliseconds", "keyslot=<num> - Select a single keyslot to modify explicitly",
                                         "new-secret=<str> - New secret to set in the matching keyslots. Empty string to erase",
                                         "old-secret=<str> - Select all keyslots that match this password", "state=<str> - Select new state of affected keyslots (active/inactive)"};
  if (format == "luks") {
    printf("Amend options for 'luks':\n");
    for (const char* line : kKeyOptions) printf("  %s\n", line);
    return;
  }
  printf("Amend options for 'qcow2':\n  backing_file=<str>     - File name of a base image\n  backing_fmt=<str>      - Image format of the base image\n"
         "  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])\n  data_file=<str>        - File name of an external data file\n"
         "  data_file_raw=<bool (on/off)> - The external data file must stay valid as a raw image\n"
         "  lazy_refcounts=<bool (on/off)> - Postpone refcount updates\n  refcount_bits=<num>    - Width of a reference count entry in bits\n"
         "  size=<size>            - Virtual disk size\n");
  for (const char* line : kKeyOptions) printf("  encrypt.%s\n", line);
}

// What is to become of an image.
struct Wanted {
  uint32_t version;
  unsigned refcount_order;
  std::optional<bool> lazy, data_file_raw;
  std::optional<std::string> data_file;
  std::optional<uint64_t> size;
  KeyChange keys;
};

std::vector<std::byte> bytes_of(const std::string& text) {
  auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

Result<bool> on_or_off(const std::string& name, const std::string& value) {
  if (value == "on" || value == "true" || value == "yes") return true;
  if (value == "off" || value == "false" || value == "no") return false;
  return bad("Parameter '" + name + "' expects 'on' or 'off'");
}

Result<Wanted> parse(qcow2::Qcow2& image, const OptionList& options) {
  const qcow2::Header& h = image.header();
  Wanted out{.version = h.version, .refcount_order = h.geometry.refcount_order, .lazy = {}, .data_file_raw = {}, .data_file = {}, .size = {}, .keys = {}};
  for (auto& [key, value] : options) {
    if (key == "compat") {
      out.version = value == "0.10" || value == "v2" ? 2 : value == "1.1" || value == "v3" ? 3 : 0;
      if (!out.version) return bad("Unknown compatibility level " + value);
    } else if (key == "lazy_refcounts") {
      out.lazy = TRY(on_or_off(key, value));
    } else if (key == "backing_file" || key == "backing_fmt") {
      if (value != (key == "backing_file" ? h.backing_file : h.backing_format())) return bad("Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.");
    } else if (key == "data_file") {
      if (!h.has_data_file()) return bad("data-file can only be set for images that use an external data file");
      out.data_file = value;
    } else if (key == "data_file_raw") {
      out.data_file_raw = TRY(on_or_off(key, value));
      if (*out.data_file_raw && !h.data_file_raw()) return bad("data-file-raw cannot be set on existing images");
    } else if (key == "size") {
      out.size = TRY(parse_bytes(value));
    } else if (key == "refcount_bits") {
      const uint64_t bits = TRY(parse_bytes(value));
      if (bits == 0 || bits > 64 || !std::has_single_bit(bits)) return bad("Refcount width must be a power of two and may not exceed 64 bits");
      out.refcount_order = static_cast<unsigned>(std::countr_zero(bits));
    } else if (key.starts_with("encrypt.") && TRY(out.keys.take(key.substr(8), value))) {
      if (h.crypt == qcow2::Crypt::kNone) return bad("Can't amend encryption options - encryption not present");
      if (!image.luks()) return bad("Only LUKS encryption options can be amended");
    } else {
      for (const char* known : {"cluster_size", "compression_type", "encryption", "extended_l2", "preallocation"})
        if (key == known) return bad("Invalid parameter '" + key + "'\nThis option is only supported for image creation");
      if (key.starts_with("encrypt.")) return bad("Invalid parameter '" + key + "'\nThis option is only supported for image creation");
      return bad("Invalid parameter '" + key + "'");
    }
  }
  if (out.refcount_order != h.geometry.refcount_order && out.refcount_order != 4 && out.version < 3)
    return bad("Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)");
  if (out.lazy.value_or(false) && out.version < 3) return bad("Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)");
  return out;
}

Result<> upgrade(qcow2::Qcow2& image) {
  bool short_entries = false;
  for (const qcow2::Snapshot& s : image.snapshots()) short_entries |= s.extra_size < 16;
  if (short_entries) TRY_VOID(image.renew_snapshot_table());
  qcow2::Header h = image.header();
  h.version = 3;
  h.set(qcow2::extension::kFeatureNames, qcow2::Header::feature_names());
  if (!h.serialize()) h.set(qcow2::extension::kFeatureNames, {});
  return image.rewrite_header(h);
}

Result<> downgrade(qcow2::Qcow2& image, const qcow2::Qcow2::Steps& tell) {
  if (image.header().has_data_file()) return bad("Cannot downgrade an image with a data file");
  if (uint64_t bits = image.header().incompatible & ~qcow2::incompatible::kDirty) {
    char text[80];
    snprintf(text, sizeof text, "Cannot downgrade an image with incompatible features 0x%llx set", static_cast<unsigned long long>(bits));
    return bad(text);
  }
  // An old list of snapshots has no place for a size of the disk, and 32 bits for that of a machine's state.
  for (const qcow2::Snapshot& s : image.snapshots())
    if (s.vm_state_size > UINT32_MAX || s.disk_size != image.size()) return bad("Internal snapshots prevent downgrade of image");
  if (image.header().geometry.refcount_order != 4) return bad("compat=0.10 requires refcount_bits=16");
  while (!image.bitmaps().empty()) TRY_VOID(image.remove_bitmap(std::string(image.bitmaps()[0].name)));
  if (auto expanded = image.expand_zero_clusters(tell); !expanded) {
    const Error& why = expanded.error();
    std::string said = why.message.starts_with("Snapshot L1 table") ? why.message + "\n\1" : "";
    return bad(said + "Failed to turn zero into data clusters: " + strerror(why.code ? why.code : EIO), why.code);
  }
  qcow2::Header h = image.header();
  h.version = 2;
  h.incompatible = h.compatible = h.autoclear = 0;
  h.unknown.clear();
  h.set(qcow2::extension::kFeatureNames, {});
  return image.rewrite_header(h);
}

}  // namespace

Result<int> amend(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:o:t:pq", {"image-opts", "force"}));
  if (!a.has("o")) return bad("Must specify options (-o)");
  for (const std::string& o : a.all("o"))
    if (o == "help" || o == "?") return print_help(a.get("f")), 0;
  if (a.names.size() != 1) return bad("Expecting one image file name");
  auto image = TRY(img::open(a.names[0], {.format = a.get("f"), .writable = true, .cache = a.get("t", "writeback"), .image_options = a.has("image-opts"), .no_data = true}));
  const OptionList options = TRY(parse_options(a.all("o")));
  if (auto* luks = dynamic_cast<storage::LuksImage*>(image.get())) {
    KeyChange keys;
    for (auto& [key, value] : options)
      if (!TRY(keys.take(key, value))) return bad("Invalid parameter '" + key + "'");
    TRY_VOID(change_keys(luks->luks(), luks->file(), keys, a.has("force"), "key-secret"));
    return 0;
  }
  auto* q = as_qcow2(*image);
  if (!q) return bad("Format driver '" + std::string(image->format()) + "' does not support option amendment");
  const Wanted wanted = TRY(parse(*q, options));
  Progress progress(a.has("p") && !a.has("q"));
  progress.show(0, 1);
  auto tell = [&](uint64_t done, uint64_t all) { progress.show(done, all); };
  if (wanted.version > q->header().version) TRY_VOID(upgrade(*q));
  if (wanted.keys.asked) TRY_VOID(change_keys(*q->luks(), q->file(), wanted.keys, a.has("force"), "encrypt.key-secret"));
  TRY_VOID(q->change_refcount_width(wanted.refcount_order, tell));
  qcow2::Header h = q->header();
  if (wanted.data_file) h.set(qcow2::extension::kDataFile, bytes_of(*wanted.data_file));
  if (wanted.data_file_raw && !*wanted.data_file_raw) h.autoclear &= ~qcow2::autoclear::kRawData;
  if (wanted.lazy) h.compatible = *wanted.lazy ? h.compatible | qcow2::compatible::kLazyRefcounts : h.compatible & ~qcow2::compatible::kLazyRefcounts;
  if (wanted.data_file || wanted.data_file_raw || wanted.lazy) TRY_VOID(q->rewrite_header(h));
  if (wanted.size) TRY_VOID(q->resize((*wanted.size + 511) / 512 * 512, storage::Preallocation::kOff));
  if (wanted.version < q->header().version) TRY_VOID(downgrade(*q, tell));
  TRY_VOID(q->close());
  progress.end();
  return 0;
}

}  // namespace vireo::cli::img
