// SPDX-License-Identifier: Apache-2.0
#include "storage/image/open.h"

#include <sys/stat.h>

#include <algorithm>

#include "storage/file/blkdebug_file.h"
#include "storage/file/null_file.h"
#include "storage/file/quorum_file.h"
#include "storage/image/blkdebug_image.h"
#include "storage/image/compress_image.h"
#include "storage/image/image_file.h"
#include "storage/image/luks_image.h"
#include "storage/image/qcow2_options.h"
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

std::unexpected<Error> bad(const std::string& why, int code = EINVAL) { return fail(ErrorKind::kInvalid, why, code); }

bool is_format(const std::string& driver) { return driver == "raw" || driver == "qcow2" || driver == "luks"; }

// How QEMU's drivers go about an image, not what it is: taken, and not needed here.
bool tuning(const std::string& option) {
  for (const char* known : {"aio", "auto-read-only", "cache.", "detect-zeroes", "discard", "drop-cache", "force-share", "latency-ns", "locking", "node-name",
                            "pr-manager", "read-only", "server.type", "x-check-cache"})
    if (option.starts_with(known)) return true;
  return false;
}

// Opens one image: a tree of drivers, and below it its backing chain.
class Opener {
 public:
  // The image that `name` or, without one, the options name.
  Result<std::shared_ptr<Image>> layer(const std::string& name, OpenOptions& options, size_t depth);

 private:
  Result<std::unique_ptr<File>> protocol(ImageSpec spec, OpenOptions& options, size_t depth);
  Result<std::unique_ptr<File>> blkdebug_file(ImageSpec spec, OpenOptions& options, size_t depth);
  Result<std::unique_ptr<File>> quorum_file(ImageSpec spec, OpenOptions& options, size_t depth);
  Result<std::unique_ptr<File>> plain_file(const std::string& path, const OpenOptions& options);
  Result<std::shared_ptr<Image>> blkdebug_image(ImageSpec spec, OpenOptions& options, size_t depth);
  Result<std::shared_ptr<Image>> compress_image(ImageSpec spec, OpenOptions& options, size_t depth);
  Result<std::shared_ptr<Image>> qcow2_image(std::unique_ptr<File> file, ImageSpec& spec, OpenOptions& options, const std::optional<SecretBytes>& key, size_t depth);
  Result<> open_backing(Image& image, const qcow2::Header& header, const std::string& place, ImageSpec backing, OpenOptions& options, size_t depth);
  Result<> nothing_left(const ImageSpec& spec, const char* kind, const std::string& driver);

  std::vector<Identity> seen_;
  size_t layers_ = 0, drivers_ = 0;
};

Result<> Opener::nothing_left(const ImageSpec& spec, const char* kind, const std::string& driver) {
  TRY_VOID(check_switches(spec));
  for (auto& [name, value] : spec.values())
    if (!tuning(name)) return bad(std::string("Block ") + kind + " '" + driver + "' does not support the option '" + name + "'");
  return {};
}

// The options that a name with a protocol in front stands for.
ImageSpec spec_of_file(const std::string& name) {
  ImageSpec out;
  if (name.starts_with("blkdebug:")) {
    size_t end = name.find(':', 9);
    out.set("driver", "blkdebug");
    if (end == std::string::npos) end = name.size();
    if (end > 9) out.set("config", name.substr(9, end - 9));
    if (end < name.size()) out.put_part("image", spec_of_file(name.substr(end + 1)));
  } else {
    out.set("filename", name);
  }
  return out;
}

// A name that a person can type where there is one.
std::string name_of(const ImageSpec& spec) {
  ImageSpec rest = spec;
  if (is_format(rest.get("driver").value_or("raw"))) rest.take("driver");
  rest.take_part("data-file");  // not part of the name: the image has one of its own, usually
  ImageSpec file = rest.take_part("file");
  if (!rest.empty()) file = spec;
  if (file.get("driver") == "file") file.take("driver");
  if (file.values().size() == 1 && file.get("filename")) return *file.get("filename");
  if (file.get("driver") == "blkdebug") {
    ImageSpec below = file.take_part("image");
    if (below.get("driver") == "file") below.take("driver");
    file.take("driver");
    std::string config = file.take("config").value_or("");
    if (file.empty() && !config.empty() && below.values().size() == 1 && below.get("filename")) return "blkdebug:" + config + ":" + *below.get("filename");
  }
  return spec.json();
}

Result<std::unique_ptr<File>> Opener::plain_file(const std::string& path, const OpenOptions& options) {
  FileConfig config{.path = path, .read_only = options.read_only, .direct = options.direct, .no_flush = options.no_flush,
                    .lock = options.lock, .share_writers = options.share_writers};
  auto file = TRY(open_file(config));
  struct stat st;
  if (file->fd() >= 0 && fstat(file->fd(), &st) == 0) {
    Identity me{st.st_dev, st.st_ino};
    if (std::ranges::find(seen_, me) != seen_.end()) return fail(ErrorKind::kCorrupt, "the backing chain is a loop: '" + path + "' is in it twice", EINVAL);
    seen_.push_back(me);
  }
  return file;
}

Result<std::unique_ptr<File>> Opener::blkdebug_file(ImageSpec spec, OpenOptions& options, size_t depth) {
  auto rules = std::make_unique<BlkdebugRules>();
  ImageSpec whole = spec;
  whole.set("driver", "blkdebug");
  std::string name = name_of(whole);
  TRY_VOID(rules->take(spec, depth == 0));
  TRY(BlkdebugImage::Limits::take(spec));  // requests of a format are not split: it keeps to the file's sectors itself
  ImageSpec below = spec.take_part("image");
  TRY_VOID(nothing_left(spec, "protocol", "blkdebug"));
  auto file = TRY(protocol(std::move(below), options, depth));
  return std::make_unique<BlkdebugFile>(std::move(file), std::move(rules), std::move(name));
}

Result<std::unique_ptr<File>> Opener::quorum_file(ImageSpec spec, OpenOptions& options, size_t depth) {
  ImageSpec whole = spec;
  whole.set("driver", "quorum");
  const auto threshold = TRY(spec.take_size("vote-threshold"));
  const std::string pattern = spec.take("read-pattern").value_or("quorum");
  std::vector<ImageSpec> children = spec.take_list("children");
  TRY_VOID(nothing_left(spec, "protocol", "quorum"));
  if (pattern != "quorum" && pattern != "fifo") return bad("Parameter 'read-pattern' does not accept value '" + pattern + "'");
  if (!threshold && pattern == "quorum") return bad("Parameter 'vote-threshold' is missing");
  std::vector<std::unique_ptr<File>> copies;
  for (ImageSpec& child : children) copies.push_back(TRY(protocol(std::move(child), options, depth)));
  return QuorumFile::create(std::move(copies), threshold.value_or(1), pattern == "fifo", whole.json());
}

Result<std::unique_ptr<File>> Opener::protocol(ImageSpec spec, OpenOptions& options, size_t depth) {
  if (++drivers_ > 4 * kDeepestChain) return fail(ErrorKind::kCorrupt, "too many drivers above one another", EINVAL);
  const ImageSpec whole = spec;
  std::string driver = spec.take("driver").value_or(""), name = spec.get("filename").value_or("");
  if (driver.empty() && name.starts_with("blkdebug:")) {
    spec.take("filename");
    const ImageSpec named = spec_of_file(name);
    for (auto& [key, value] : named.values()) spec.set(key, value);
    driver = *spec.take("driver");
  }
  if (is_format(driver)) {
    OpenOptions inner = {};
    inner.spec = whole;
    inner.read_only = options.read_only, inner.backing = options.backing, inner.direct = options.direct, inner.no_flush = options.no_flush;
    inner.lock = options.lock, inner.share_writers = options.share_writers, inner.repair_dirty = options.repair_dirty;
    inner.qcow2 = options.qcow2, inner.find_secret = options.find_secret, inner.note = options.note;
    return std::make_unique<ImageFile>(TRY(layer("", inner, depth)));
  }
  if (driver == "blkdebug") return blkdebug_file(std::move(spec), options, depth);
  if (driver == "quorum") return quorum_file(std::move(spec), options, depth);
  if (driver == "null-co" || driver == "null-aio") {
    const uint64_t size = (TRY(spec.take_size("size"))).value_or(1 << 30);
    const bool zeroes = (TRY(spec.take_switch("read-zeroes"))).value_or(false);
    spec.take("filename");
    TRY_VOID(nothing_left(spec, "protocol", driver));
    return std::make_unique<NullFile>(whole.json(), size, zeroes, options.read_only);
  }
  std::optional<nbd::Address> address;
  if (driver == "nbd") {
    auto one_of = [&](const char* a, const char* b) { auto first = spec.take(a), second = spec.take(b); return first.value_or(second.value_or("")); };
    std::string path = one_of("server.path", "path"), host = one_of("server.host", "host"), port = one_of("server.port", "port");
    std::string exported = spec.take("export").value_or("");
    address = nbd::Address{path.empty() ? nbd::tcp_uri(host, port, exported) : nbd::unix_uri(path, exported), {}};
  } else if (driver.empty()) {
    address = nbd::parse_address(name);
  }
  if (address) {
    // What an image names is not asked of the network: its writer would choose who is called.
    if (depth > 0) return fail(ErrorKind::kUnsupported, "'" + address->uri + "': a backing file over the network is not followed", EPERM);
    address->context = spec.take("x-dirty-bitmap").value_or(options.nbd_context);
    spec.take("filename");
    TRY_VOID(nothing_left(spec, "protocol", "nbd"));
    return nbd::open_nbd(*address, options.read_only);
  }
  const bool host = driver == "host_device" || driver == "host_cdrom";
  if (!driver.empty() && driver != "file" && !host) return fail(ErrorKind::kUnsupported, "Unknown driver '" + driver + "'", ENOENT);
  spec.take("filename");
  if (name.empty()) return bad("The 'file' block driver requires a file name");
  if (auto mode = spec.take("locking"); mode && *mode != "on" && *mode != "off" && *mode != "auto") return bad("Parameter 'locking' does not accept value '" + *mode + "'");
  TRY_VOID(nothing_left(spec, "protocol", driver.empty() ? "file" : driver));
  // A folder cannot be opened for writing, and that is what is told then.
  if (struct stat st; !driver.empty() && stat(name.c_str(), &st) == 0 && (options.read_only || !S_ISDIR(st.st_mode))) {
    if (driver == "file" && !S_ISREG(st.st_mode)) return bad("'file' driver requires '" + name + "' to be a regular file");
    if (host && !S_ISBLK(st.st_mode) && !S_ISCHR(st.st_mode)) return bad("'" + driver + "' driver requires '" + name + "' to be either a character or block device");
  }
  return plain_file(driver.empty() ? TRY(plain_path(name)) : name, options);
}

Result<std::shared_ptr<Image>> Opener::blkdebug_image(ImageSpec spec, OpenOptions& options, size_t depth) {
  auto rules = std::make_unique<BlkdebugRules>();
  TRY_VOID(rules->take(spec, depth == 0));
  auto limits = TRY(BlkdebugImage::Limits::take(spec));
  ImageSpec below = spec.take_part("image");
  TRY_VOID(nothing_left(spec, "protocol", "blkdebug"));
  if (is_format(below.get("driver").value_or(""))) {
    options.spec = std::move(below);
  } else {
    options.spec.set("driver", "raw");
    options.spec.put_part("file", below);
  }
  auto image = TRY(layer("", options, depth));
  return std::make_shared<BlkdebugImage>(std::move(image), std::move(rules), limits);
}

Result<std::shared_ptr<Image>> Opener::compress_image(ImageSpec spec, OpenOptions& options, size_t depth) {
  options.spec = spec.take_part("file");
  TRY_VOID(nothing_left(spec, "format", "compress"));
  if (options.spec.empty()) return bad("A block device must be specified for \"file\"");
  options.format.clear();
  auto image = TRY(layer("", options, depth));
  auto* below = dynamic_cast<qcow2::Qcow2*>(image.get());
  if (!below || below->has_data_file()) return bad("Compression is not supported for underlying format: " + std::string(image->format()), ENOTSUP);
  return std::make_shared<CompressImage>(std::move(image));
}

Result<std::shared_ptr<Image>> Opener::layer(const std::string& name, OpenOptions& options, size_t depth) {
  if (++layers_ > kDeepestChain) return fail(ErrorKind::kCorrupt, "the backing chain is deeper than " + std::to_string(kDeepestChain), EINVAL);
  ImageSpec spec = std::move(options.spec);
  options.spec = {};
  if (ImageSpec::is_json(name)) {
    spec = TRY(ImageSpec::from_json(name));
  } else if (!name.empty()) {
    ImageSpec file = spec.take_part("file");
    const ImageSpec named = spec_of_file(name);
    for (auto& [key, value] : named.values()) file.set(key, value);
    spec.put_part("file", file);
  }
  std::string driver = spec.take("driver").value_or("");
  if (driver.empty()) driver = options.format;
  ImageSpec full = spec;
  if (!driver.empty()) full.set("driver", driver);
  auto named = [&](std::shared_ptr<Image> image) {
    if (name.starts_with("file:")) image->set_name(image->file().name());
    else image->set_name(name.empty() || ImageSpec::is_json(name) ? name_of(full) : name);
    return image;
  };
  if (driver == "blkdebug") {
    if (ImageSpec file = spec.take_part("file"); !file.empty() && !spec.get("image.driver")) {
      // blkdebug::path with options of its own: the name's last part is what lies below.
      ImageSpec inner = file.take_part("image"), already = spec.take_part("image");
      if (inner.empty()) inner = file;
      for (auto& [key, value] : already.values()) inner.set(key, value);
      spec.put_part("image", inner);
    } else if (!file.empty()) {
      ImageSpec inner = file.take_part("image");
      spec.put_part("image.file", inner.empty() ? file : inner);
    }
    return named(TRY(blkdebug_image(std::move(spec), options, depth)));
  }
  if (driver == "compress") return named(TRY(compress_image(std::move(spec), options, depth)));
  const bool bare = !driver.empty() && !is_format(driver);  // a protocol with no format above it
  ImageSpec file_spec = spec.take_part("file");
  if (auto node = spec.get("file")) return bad("Cannot find device='' nor node-name='" + *node + "'", ENOENT);
  if (bare && file_spec.empty()) {
    file_spec = std::exchange(spec, {});
    file_spec.set("driver", driver);
  } else if (file_spec.empty() && spec.get("filename")) {
    file_spec.set("filename", *spec.take("filename"));
  }
  if (file_spec.empty() && !options.file) return bad("A block device must be specified for \"file\"");
  std::unique_ptr<File> file = std::move(options.file);
  if (bare && driver != "file" && driver != "host_device" && driver != "host_cdrom" && driver != "nbd" && driver != "null-co" && driver != "null-aio" && driver != "quorum")
    return fail(ErrorKind::kUnsupported, "Unknown driver '" + driver + "'", ENOENT);
  if (!file) file = TRY(protocol(std::move(file_spec), options, depth));
  if (options.wrap) file = options.wrap(std::move(file));
  if (driver.empty()) driver = TRY(probe_format(*file));
  if (driver == "raw" || bare) {
    ImageSpec backing = spec.take_part("backing");
    if (!backing.empty()) return bad("Block format 'raw' does not support backing files");
    TRY_VOID(nothing_left(spec, "format", driver));
    return named(std::make_shared<RawImage>(std::move(file), driver));
  }
  std::optional<SecretBytes> key = depth < options.keys.size() ? options.keys[depth] : std::nullopt;
  if (!key) key = options.any_key;
  spec.take("encrypt.format");  // the image says it
  for (const char* option : {"key-secret", "encrypt.key-secret"})
    if (auto id = spec.take(option); id && options.find_secret) {
      auto secret = options.find_secret(*id);
      if (!secret && !options.no_data) return std::unexpected(std::move(secret).error());
      if (secret) key = std::move(*secret);
    }
  if (driver == "luks") {
    TRY_VOID(nothing_left(spec, "format", driver));
    if (!key && !options.no_data) return bad("Parameter 'key-secret' is required for cipher");
    return named(std::shared_ptr<Image>(TRY(LuksImage::open(std::move(file), key))));
  }
  return named(TRY(qcow2_image(std::move(file), spec, options, key, depth)));
}

Result<std::shared_ptr<Image>> Opener::qcow2_image(std::unique_ptr<File> file, ImageSpec& spec, OpenOptions& options, const std::optional<SecretBytes>& key, size_t depth) {
  auto header = qcow2::Header::read(*file);
  if (!header) return std::unexpected(std::move(header).error());
  const std::string place = file->place();
  std::unique_ptr<File> data;
  ImageSpec data_spec = spec.take_part("data-file"), backing = spec.take_part("backing");
  if (auto node = spec.take("backing"); node && !node->empty() && *node != "null") return bad("Cannot find device='' nor node-name='" + *node + "'", ENOENT);
  qcow2::OpenConfig config = options.qcow2;
  TRY_VOID(take_qcow2_options(spec, *header, config));
  TRY_VOID(nothing_left(spec, "format", "qcow2"));
  if (header->has_data_file()) {
    if (data_spec.empty()) {
      std::string data_name = header->data_file_name();
      if (data_name.empty()) return bad("'data-file' is required for this image");
      data_spec.set("filename", resolve_backing(place, data_name));
      data_spec.set("driver", "file");
      data_spec.set("filename", TRY(plain_path(*data_spec.get("filename"))));
    }
    struct stat st;
    const std::string path = data_spec.get("filename").value_or("");
    if (stat(path.c_str(), &st) == 0 && std::ranges::find(seen_, Identity{st.st_dev, st.st_ino}) != seen_.end())
      return fail(ErrorKind::kCorrupt, "the data file is the image itself", EINVAL);
    const size_t before = seen_.size();
    data = TRY(protocol(std::move(data_spec), options, depth));
    seen_.resize(before);
  } else if (!data_spec.empty()) {
    return bad("'data-file' can only be set for images with an external data file");
  }
  if (!options.read_only && header->incompatible & qcow2::incompatible::kDirty && options.repair_dirty &&
      !(header->incompatible & qcow2::incompatible::kCorrupt)) {
    auto checked = TRY(qcow2::check(*file, qcow2::Repair::kAll, [&](const std::string& line) {
      if (options.note) options.note(line);
    }));
    if (checked.corruptions > checked.snapshots_to_renew || checked.errors)
      return fail(ErrorKind::kCorrupt, "the image was not closed cleanly and could not be repaired", EIO);
  }
  config.discard = options.discard;
  config.secret = key;
  config.no_data = options.no_data;
  auto opened = qcow2::Qcow2::open(std::move(file), std::move(data), config);
  if (!opened) return std::unexpected(std::move(opened).error());
  std::shared_ptr<Image> image = std::move(*opened);
  if (options.backing) TRY_VOID(open_backing(*image, *header, place, std::move(backing), options, depth));
  return image;
}

Result<> Opener::open_backing(Image& image, const qcow2::Header& header, const std::string& place, ImageSpec backing, OpenOptions& options, size_t depth) {
  if (!header.has_backing && options.backing_name.empty() && backing.empty()) return {};
  OpenOptions below;
  below.format = options.backing_format.empty() ? header.backing_format() : options.backing_format;
  below.lock = options.lock;
  below.share_writers = options.share_writers;
  below.direct = options.direct;
  below.note = options.note;
  below.keys = options.keys;
  below.any_key = options.any_key;
  below.no_data = options.no_data;
  below.find_secret = options.find_secret;
  below.spec = std::move(backing);
  std::string name;
  const bool named = below.spec.get("file.filename") || below.spec.get("filename") || (below.spec.get("driver") && !is_format(*below.spec.get("driver"))) ||
                     below.spec.get("file.driver");
  if (!options.backing_name.empty()) name = options.backing_name;
  else if (!named) {
    if (place.empty() && !header.backing_file.starts_with("/") && !ImageSpec::is_json(header.backing_file))
      return bad("Could not open backing file: Cannot generate a base directory for the image's backing file");
    name = resolve_backing(place, header.backing_file);
  }
  auto under = layer(name, below, depth + 1);
  if (!under && under.error().message.starts_with("Could not open backing file")) return std::unexpected(std::move(under).error());  // said by a layer below
  if (!under) return std::unexpected(std::move(under).error().within("Could not open backing file"));
  image.set_backing(std::move(*under));
  return {};
}

}  // namespace

Result<std::string> plain_path(const std::string& name) {
  if (name.starts_with("file:")) {
    std::string path = name.substr(5);
    size_t colon = path.find(':');
    return colon != std::string::npos && colon < path.find('/') ? "./" + path : path;  // or it would be taken for a protocol once more
  }
  if (ImageSpec::is_json(name)) return fail(ErrorKind::kUnsupported, "json: names are not supported", ENOTSUP);
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
  Opener opener;
  auto image = opener.layer(name, options, options.named_by_image ? 1 : 0);
  if (!image) return std::unexpected(std::move(image).error().within("Could not open '" + name + "'"));
  return image;
}

}  // namespace vireo::storage
