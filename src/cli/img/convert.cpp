// SPDX-License-Identifier: Apache-2.0
// img convert.
#include "cli/img/convert.h"
#include "cli/img/bitmap.h"
#include "cli/img/unfinished_target.h"

#include <cstdio>

namespace vireo::cli::img {
namespace {

std::unexpected<Error> bad(const std::string& why) { return fail(ErrorKind::kInvalid, why, EINVAL); }

// "snapshot.id=1,snapshot.name=x", or an id or name.
Result<> show_snapshot(Image& image, const std::string& word) {
  auto* q = as_qcow2(image);
  if (!q) return bad("Failed to load snapshot: the format has none");
  std::string id, name;
  if (word.starts_with("snapshot.")) {
    for (auto& [key, value] : TRY(parse_options({word}))) {
      if (key == "snapshot.id") id = value;
      else if (key == "snapshot.name") name = value;
      else return bad("Failed in parsing snapshot param '" + word + "'");
    }
    for (size_t i = 0; i < q->snapshots().size(); ++i)
      if ((id.empty() || q->snapshots()[i].id == id) && (name.empty() || q->snapshots()[i].name == name)) return q->show_snapshot(i);
  } else if (int i = q->find_snapshot(word); i >= 0) {
    return q->show_snapshot(static_cast<size_t>(i));
  }
  return bad("Failed to load snapshot: Can't find snapshot");
}

// In a raw file of which all was written or zeroed, the first block is space and no hole, as in one that was made anew (create_file).
Result<> fill_first_block(Image& target) {
  std::array<std::byte, 4096> bytes;
  auto first = std::span(bytes).first(std::min<uint64_t>(target.size(), bytes.size()));
  TRY_VOID(target.read(0, first));
  if (!storage::all_zero(first.data(), first.size())) return {};
  return target.write(0, std::span<const std::byte>(first));
}

}  // namespace

Result<int> convert(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:O:B:F:o:l:S:t:T:m:r:WcCnpqU",
                                    {"image-opts", "target-image-opts", "target-is-zero", "force-share=U", "salvage", "bitmaps", "skip-broken-bitmaps", "source-image-opts"}));
  const std::string out_format = a.get("O", "raw");
  for (const std::string& o : a.all("o"))
    if (o == "help" || o == "?") {
      print_create_options(out_format);
      return 0;
    }
  if (a.has("skip-broken-bitmaps") && !a.has("bitmaps")) return bad("Use of --skip-broken-bitmaps requires --bitmaps");
  if (a.names.size() < 2) return bad("Must specify image file name");
  const std::string target_name = a.names.back();
  a.names.pop_back();
  if (a.has("n") && a.has("o")) return bad("-o has no effect when skipping image creation");
  CopyJob job;
  job.compressed = a.has("c");
  job.out_of_order = a.has("W");
  job.salvage = a.has("salvage");
  if (job.salvage && !a.has("q"))
    job.warn = [self = std::string(argv[0])](const std::string& what) { fprintf(stderr, "%s: warning: %s\n", self.c_str(), what.c_str()); };
  if (a.has("S")) {
    job.sparse = TRY(parse_bytes(a.get("S")));
    if (job.sparse % 512) return bad("Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to 4398046510592. Select 0 to disable sparse detection (fully allocates output).");
  }
  if (a.has("m")) {
    unsigned long m = strtoul(a.get("m").c_str(), nullptr, 10);
    if (m < 1 || m > 16) return bad("Invalid number of coroutines. Allowed number of coroutines is between 1 and 16");
    job.threads = static_cast<unsigned>(m);
  }
  if (job.out_of_order && job.compressed) return bad("Out of order write and compress are mutually exclusive");
  if (a.has("B") && a.names.size() > 1) return bad("Having a backing file for the target makes no sense when concatenating multiple input images");
  if (a.has("target-is-zero") && !a.has("n")) return bad("--target-is-zero requires use of -n flag");
  if (out_format != "raw" && out_format != "qcow2" && out_format != "luks") return bad("Unknown file format '" + out_format + "'");
  if (job.compressed && out_format != "qcow2") return bad("Compression not supported for this file format");
  // Before the target, which may be there, is made anew.
  if (!valid_cache(a.get("t", "unsafe"))) return bad("Invalid cache option: " + a.get("t"));
  uint64_t size = 0;
  for (const std::string& name : a.names) {
    auto source = TRY(img::open(name, {.format = a.get("f"), .force_share = a.has("U"), .cache = a.get("T", "writeback"), .image_options = a.has("image-opts")}));
    if (a.has("l"))
      if (auto shown = show_snapshot(*source, a.get("l")); !shown) {
        if (!shown.error().message.starts_with("Failed")) return std::unexpected(std::move(shown).error().within("Failed to load snapshot"));
        return std::unexpected(std::move(shown).error());
      }
    size += source->size();
    job.sources.push_back(std::move(source));
  }
  if (a.has("bitmaps")) {
    if (job.sources.size() > 1) return bad("Copying bitmaps only possible with single source");
    for (const std::string& format : {std::string(job.sources[0]->format()), out_format})
      if (format != "qcow2") return bad("Format driver '" + format + "' does not support bitmaps");
    TRY_VOID(bitmaps_can_be_copied(*job.sources[0], a.has("skip-broken-bitmaps")));
  }
  OptionList options = TRY(parse_options(a.all("o")));
  std::string backing = a.get("B"), backing_format = a.get("F"), key_secret;
  bool encrypted = false;
  for (auto& [key, value] : options) {
    if (key == "backing_file") backing = value;
    if (key == "backing_fmt") backing_format = value;
    if (key == "key-secret" || key == "encrypt.key-secret") key_secret = value;
    if (key == "encrypt.format" || (key == "encryption" && value == "on")) encrypted = true;
  }
  if (encrypted && job.compressed) return bad("Compression and encryption not supported at the same time");
  std::shared_ptr<Image> base;
  if (!backing.empty()) {
    if (backing_format.empty() && !a.has("n")) return bad("Use of backing file requires explicit backing format");
    if (job.sources.size() > 1) return bad("Having a backing file for the target makes no sense when concatenating multiple input images");
    base = TRY(img::open(storage::resolve_backing(target_name, backing), {.format = backing_format, .no_data = true}));
    job.base_size = base->size();
    // The part of the source's chain that the target leaves to its backing file is found by name.
    for (Image* i = job.sources[0]->backing(); i; i = i->backing())
      if (i->file().name() == base->file().name()) job.base = i;
  }
  bool reused = false;
  std::vector<std::string> files{target_name};
  for (auto& [key, value] : options)
    if (key == "data_file") files.push_back(storage::resolve_backing(target_name, value));
  std::optional<UnfinishedTarget> unfinished(std::in_place, argv[0], files);
  if (!a.has("n")) {
    CreateWish wish{.format = out_format, .name = target_name, .backing = a.get("B"), .backing_format = a.get("F"), .options = options, .print = false, .reused = &reused};
    wish.size = size;
    for (auto& [key, value] : options)
      if (key == "size") {
        wish.size.reset();
        if ((TRY(parse_bytes(value)) + 511) / 512 * 512 < size) return bad("output file is smaller than input file");
      }
    if (auto made = create_image(wish); !made) return std::unexpected(std::move(made).error().within(target_name + ": error while converting " + out_format));
  }
  auto target = TRY(img::open(target_name, {.format = out_format, .writable = true, .backing = !backing.empty() || a.has("n"), .cache = a.get("t", "unsafe"), .image_options = a.has("target-image-opts"), .key_secret = key_secret}));
  if (a.has("n") && target->size() < size) return bad("output file is smaller than input file");
  if (!a.has("n") && target->size() < size) return bad("output file is smaller than input file");
  job.target = target.get();
  // Where each sector has its place beforehand, order says nothing, and all threads may encrypt.
  if (std::string_view(target->format()) == "luks") job.out_of_order = true;
  job.target_is_zero = a.has("target-is-zero") || (!a.has("n") && backing.empty() && (out_format == "qcow2" || (out_format == "raw" && target->file().new_space_is_zero() && !reused)));
  if (auto* q = as_qcow2(*target); q && q->has_data_file() && !a.has("target-is-zero")) job.target_is_zero = false;
  // With a backing file that no part of the source's chain is, everything is written.
  Progress progress(a.has("p"));
  job.progress = &progress;
  progress.show(0, size);
  if (auto copied = copy(job); !copied) return std::unexpected(std::move(copied).error().within("error while copying"));
  if (reused) {
    TRY_VOID(target->write_zeroes(size, target->size() - size, true));
    TRY_VOID(fill_first_block(*target));
  }
  if (a.has("bitmaps")) TRY_VOID(copy_bitmaps(*job.sources[0], *target));
  if (auto closed = target->close(); !closed) return std::unexpected(std::move(closed).error().within("error while writing"));
  unfinished.reset();
  progress.end();
  return 0;
}

Result<int> dd(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:O:U", {"image-opts", "force-share=U"}));
  std::map<std::string, std::string> words;
  for (const std::string& name : a.names) {
    size_t equal = name.find('=');
    if (equal == std::string::npos) return bad("Unrecognized operand: " + name);
    std::string key = name.substr(0, equal);
    if (key != "bs" && key != "count" && key != "if" && key != "of" && key != "skip") return bad("unrecognized operand " + name);
    words[key] = name.substr(equal + 1);
  }
  if (words["if"].empty() || words["of"].empty()) return bad("Must specify both input and output file names");
  const std::string format = a.get("O", "raw");
  uint64_t block = words["bs"].empty() ? 512 : TRY(parse_bytes(words["bs"]));
  if (block == 0 || block > INT32_MAX) return bad("invalid number: '" + words["bs"] + "'");
  auto source = TRY(img::open(words["if"], {.format = a.get("f"), .force_share = a.has("U"), .image_options = a.has("image-opts")}));
  uint64_t size = source->size(), skip = words["skip"].empty() ? 0 : TRY(parse_bytes(words["skip"]));
  if (!words["count"].empty()) {
    uint64_t count = TRY(parse_bytes(words["count"]));
    if (count <= INT64_MAX / block && count * block < size) size = count * block;
  }
  uint64_t from = 0, length = 0;
  if (skip && (skip > INT64_MAX / block || skip * block >= source->size())) {
    fprintf(stderr, "%s: %s: cannot skip to specified offset\n", argv[0], words["if"].c_str());
  } else {
    from = skip * block;
    // `count` limits what is taken; `skip` shortens only what would be read past the end.
    length = words["count"].empty() ? size - from : std::min(size, source->size() - from);
  }
  const UnfinishedTarget unfinished(argv[0], {words["of"]});
  CreateWish wish{.format = format, .name = words["of"], .size = length, .print = false};
  if (auto made = create_image(wish); !made) return std::unexpected(std::move(made).error().within(words["of"] + ": error while creating output image of type " + format));
  auto target = TRY(img::open(words["of"], {.format = format, .writable = true, .backing = false}));
  std::vector<std::byte> buffer(std::max<uint64_t>(block, 1 << 20) / block * block);
  for (uint64_t done = 0; done < length;) {
    auto piece = std::span(buffer).first(std::min<uint64_t>(buffer.size(), length - done));
    TRY_VOID(source->read(from + done, piece));
    TRY_VOID(target->write(done, std::span<const std::byte>(piece)));
    done += piece.size();
  }
  TRY_VOID(target->close());
  return 0;
}

}  // namespace vireo::cli::img
