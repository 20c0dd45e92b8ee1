// SPDX-License-Identifier: Apache-2.0
#include "storage/image/open.h"

#include <sys/stat.h>

#include <algorithm>

#include "storage/image/luks_image.h"
#include "storage/image/raw_image.h"
#include "storage/nbd/nbd_file.h"
#include "storage/qcow2/check.h"

namespace vireo::storage {
namespace {

struct Identity {
  dev_t device;
  ino_t inode;
  bool operator==(const Identity&) const = default;
};

Result<std::shared_ptr<Image>> open_layer(const std::string& name, OpenOptions& options, std::vector<Identity>& seen, size_t depth) {
  if (seen.size() >= kDeepestChain) return fail(ErrorKind::kCorrupt, "the backing chain is deeper than " + std::to_string(kDeepestChain), EINVAL);
  auto address = nbd::parse_address(name);
  // What an image names is not asked of the network: its writer would choose who is called.
  if (address && depth > 0) return fail(ErrorKind::kUnsupported, "'" + name + "': a backing file over the network is not followed", EPERM);
  std::string path = address ? name : TRY(plain_path(name));
  std::unique_ptr<File> file = std::move(options.file);
  if (address && !file) {
    address->context = options.nbd_context;
    file = TRY(nbd::open_nbd(*address, options.read_only));
    seen.push_back({});
  }
  FileConfig config{.path = path, .read_only = options.read_only, .direct = options.direct, .no_flush = options.no_flush,
                    .lock = options.lock, .share_writers = options.share_writers};
  if (!file) file = TRY(open_file(config));
  struct stat st;
  if (file->fd() >= 0 && fstat(file->fd(), &st) == 0) {
    Identity me{st.st_dev, st.st_ino};
    if (std::ranges::find(seen, me) != seen.end()) return fail(ErrorKind::kCorrupt, "the backing chain is a loop: '" + name + "' is in it twice", EINVAL);
    seen.push_back(me);
  }
  if (options.wrap) file = options.wrap(std::move(file));
  if (options.format.empty()) options.format = TRY(probe_format(*file));
  if (options.format == "raw" || options.format == "file" || options.format == "host_device") return std::make_shared<RawImage>(std::move(file));
  std::optional<SecretBytes> key = depth < options.keys.size() ? options.keys[depth] : std::nullopt;
  if (!key) key = options.any_key;
  if (options.format == "luks") {
    if (!key && !options.no_data) return fail(ErrorKind::kInvalid, "Parameter 'key-secret' is required for cipher", EINVAL);
    return std::shared_ptr<Image>(TRY(LuksImage::open(std::move(file), key)));
  }
  if (options.format != "qcow2") return fail(ErrorKind::kUnsupported, "Unknown driver '" + options.format + "'", ENOENT);
  auto header = qcow2::Header::read(*file);
  if (!header) return std::unexpected(std::move(header).error());
  std::unique_ptr<File> data;
  if (header->has_data_file()) {
    std::string data_name = header->data_file_name();
    if (data_name.empty()) return fail(ErrorKind::kInvalid, "'data-file' is required for this image", EINVAL);
    FileConfig data_config = config;
    data_config.path = TRY(plain_path(resolve_backing(path, data_name)));
    data = TRY(open_file(data_config));
    if (fstat(data->fd(), &st) == 0 && std::ranges::find(seen, Identity{st.st_dev, st.st_ino}) != seen.end())
      return fail(ErrorKind::kCorrupt, "the data file is the image itself", EINVAL);
  }
  if (!options.read_only && header->incompatible & qcow2::incompatible::kDirty && options.repair_dirty &&
      !(header->incompatible & qcow2::incompatible::kCorrupt)) {
    auto checked = TRY(qcow2::check(*file, qcow2::Repair::kAll, [&](const std::string& line) {
      if (options.note) options.note(line);
    }));
    if (checked.corruptions || checked.errors)
      return fail(ErrorKind::kCorrupt, "the image was not closed cleanly and could not be repaired", EIO);
  }
  qcow2::OpenConfig layer = options.qcow2;
  layer.discard = options.discard;
  layer.secret = key;
  layer.no_data = options.no_data;
  auto opened = qcow2::Qcow2::open(std::move(file), std::move(data), layer);
  if (!opened) return std::unexpected(std::move(opened).error());
  std::shared_ptr<Image> image = std::move(*opened);
  if (!options.backing || (!header->has_backing && options.backing_name.empty())) return image;
  OpenOptions below;
  below.format = options.backing_format.empty() ? header->backing_format() : options.backing_format;
  below.lock = options.lock;
  below.share_writers = options.share_writers;
  below.direct = options.direct;
  below.note = options.note;
  below.keys = options.keys;
  below.any_key = options.any_key;
  below.no_data = options.no_data;
  std::string backing = options.backing_name.empty() ? resolve_backing(path, header->backing_file) : options.backing_name;
  auto under = open_layer(backing, below, seen, depth + 1);
  if (!under && under.error().message.starts_with("Could not open backing file")) return under;  // said by a layer below
  if (!under) return std::unexpected(std::move(under).error().within("Could not open backing file"));
  image->set_backing(std::move(*under));
  return image;
}

}  // namespace

Result<std::string> plain_path(const std::string& name) {
  if (name.starts_with("file:")) return name.substr(5);
  if (name.starts_with("json:")) return fail(ErrorKind::kUnsupported, "json: names are not supported", ENOTSUP);
  size_t colon = name.find(':'), slash = name.find('/');
  if (colon != std::string::npos && (slash == std::string::npos || colon < slash)) {
    struct stat st;
    if (stat(name.c_str(), &st) != 0) return fail(ErrorKind::kUnsupported, "Unknown protocol '" + name.substr(0, colon) + "'", EINVAL);
  }
  return name;
}

std::string resolve_backing(const std::string& overlay, const std::string& backing) {
  if (backing.starts_with("/")) return backing;
  size_t colon = backing.find(':'), first_slash = backing.find('/');
  if (colon != std::string::npos && (first_slash == std::string::npos || colon < first_slash)) return backing;
  size_t slash = overlay.rfind('/');
  return slash == std::string::npos ? backing : overlay.substr(0, slash + 1) + backing;
}

Result<std::string> probe_format(File& file) {
  std::byte start[8] = {};
  TRY_VOID(file.read(0, start));
  return qcow2::is_qcow2(start) ? "qcow2" : is_luks(start) ? "luks" : "raw";
}

Result<std::shared_ptr<Image>> open_image(const std::string& name, OpenOptions options) {
  std::vector<Identity> seen;
  auto image = open_layer(name, options, seen, 0);
  if (!image) return std::unexpected(std::move(image).error().within("Could not open '" + name + "'"));
  return image;
}

}  // namespace vireo::storage
