// SPDX-License-Identifier: Apache-2.0
#include "storage/jobs/chain.h"

#include <unistd.h>

#include <filesystem>

#include "base/log.h"
#include "storage/file_lock.h"
#include "storage/qcow2/create.h"

namespace vireo::storage {

std::vector<std::shared_ptr<Image>> layers(const std::shared_ptr<Image>& top) {
  std::vector<std::shared_ptr<Image>> out{top};
  while (Image* below = out.back()->backing()) out.push_back(below->shared_from_this());
  return out;
}

std::string absolute_name(Image& image) {
  const std::string& name = image.name();
  if (name.starts_with("/") || ImageSpec::is_json(name)) return name;
  std::error_code error;
  auto absolute = std::filesystem::absolute(name, error);
  return error ? name : absolute.string();
}

std::shared_ptr<Image> overlay_of(LiveDisk& disk, const Image& below) {
  if (!disk.live()) return nullptr;
  for (auto& layer : layers(disk.live()->top()))
    if (layer->backing() == &below) return layer;
  return nullptr;
}

namespace {

OpenOptions options_of(Image& image, const OpenOptions& how, bool writable) {
  OpenOptions options;
  options.format = image.format();
  options.read_only = !writable;
  options.backing = false;
  options.direct = how.direct;
  options.no_flush = how.no_flush;
  options.any_key = how.any_key;
  options.lock = false;
  options.wrap = how.wrap;
  return options;
}

}  // namespace

Result<std::shared_ptr<Image>> reopen_layer(LiveDisk& disk, std::shared_ptr<Image> layer, bool writable) {
  const std::string name = layer->name();
  if (writable && !ImageSpec::is_json(name) && access(name.c_str(), W_OK) != 0) return fail_errno("Could not reopen '" + name + "' for writing");
  // Two images in memory on one file must not both write: what the old one has goes out before the new one reads.
  if (!layer->read_only()) TRY_VOID(layer->close());
  auto opened = TRY(open_image(name, options_of(*layer, disk.config().open, writable)));
  if (opened->format() != std::string_view(layer->format())) return fail(ErrorKind::kInvalid, "'" + name + "' has become another image");
  std::shared_ptr<Image> above = overlay_of(disk, *layer);
  disk.change([&] {
    if (Image* below = layer->backing()) opened->set_backing(below->shared_from_this());
    if (above) above->set_backing(opened);
    else disk.live()->set_top(opened);
  });
  layer.reset();  // with its descriptor, unless somebody else keeps it, goes its lock
  if (opened->file().fd() >= 0)
    if (auto locked = lock_image(opened->file().fd(), writable, name); !locked) {
      if (!writable) {
        log(LogLevel::kWarning, "%s", locked.error().message.c_str());
        return opened;
      }
      // Somebody else has it: left writable in the chain, it would be written to by whoever is asked next.
      give_back_layer(disk, std::move(opened));
      return std::unexpected(std::move(locked).error());
    }
  return opened;
}

std::shared_ptr<Image> give_back_layer(LiveDisk& disk, std::shared_ptr<Image> layer) {
  auto again = reopen_layer(disk, std::move(layer), false);
  if (again) return std::move(*again);
  log(LogLevel::kWarning, "disk %s: %s", disk.config().id.c_str(), again.error().message.c_str());
  return nullptr;
}

Result<> write_backing_name(Image& overlay, const std::string& name, const std::string& format, const OpenOptions& how) {
  std::shared_ptr<Image> again;
  Image* image = &overlay;
  if (overlay.read_only()) {
    again = TRY(open_image(overlay.name(), options_of(overlay, how, true)));
    image = again.get();
  }
  auto* qcow2 = as_qcow2(*image);
  if (!qcow2) return fail(ErrorKind::kUnsupported, "'" + overlay.name() + "': only a qcow2 image has a backing file");
  qcow2::Header header = qcow2->header();
  header.has_backing = !name.empty();
  header.backing_file = name;
  auto bytes = std::as_bytes(std::span(format));
  header.set(qcow2::extension::kBackingFormat, name.empty() ? std::vector<std::byte>{} : std::vector<std::byte>{bytes.begin(), bytes.end()});
  TRY_VOID(qcow2->rewrite_header(header));
  return again ? again->close() : Result<>{};
}

Result<std::shared_ptr<Image>> make_image(const NewImage& wish, const OpenOptions& how) {
  if (wish.format != "qcow2" && wish.format != "raw") return fail(ErrorKind::kUnsupported, "Unknown driver '" + wish.format + "'");
  if (wish.path.empty()) return fail(ErrorKind::kInvalid, "a file's name is empty");
  if (wish.create) {
    if (wish.format == "raw" && !wish.backing.empty()) return fail(ErrorKind::kInvalid, "Backing file not supported for file format 'raw'");
    TRY_VOID(create_file(wish.path, wish.format == "raw" ? wish.size : 0));
    if (wish.format == "qcow2") {
      auto file = TRY(open_file({.path = wish.path}));
      TRY_VOID(qcow2::create(*file, {.size = wish.size, .backing_file = wish.backing, .backing_format = wish.backing_format}));
      TRY_VOID(file->flush());
    }
  }
  OpenOptions options;
  options.format = wish.format;
  options.read_only = false;
  options.backing = false;
  options.direct = how.direct;
  options.no_flush = how.no_flush;
  options.any_key = how.any_key;
  options.wrap = how.wrap;
  return open_image(wish.path, std::move(options));
}

}  // namespace vireo::storage
