// SPDX-License-Identifier: Apache-2.0
// img create, and what else makes images.
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>

#include "cli/img/encryption.h"
#include "cli/img/secrets.h"
#include "cli/standard_files.h"
#include "storage/image/luks_image.h"
#include "storage/image/raw_image.h"

namespace vireo::cli::img {
namespace {

using storage::Preallocation;
namespace qcow2 = storage::qcow2;

struct Known {
  const char* name;
  const char* type;
  const char* text;
};
constexpr Known kQcow2[] = {
    {"backing_file", "str", "File name of a base image"},
    {"backing_fmt", "str", "Image format of the base image"},
    {"cluster_size", "size", "qcow2 cluster size"},
    {"compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"compression_type", "str", "Compression method used for image cluster compression"},
    {"data_file", "str", "File name of an external data file"},
    {"data_file_raw", "bool (on/off)", "The external data file must stay valid as a raw image"},
    {"encrypt.cipher-alg", "str", "Name of encryption cipher algorithm"},
    {"encrypt.cipher-mode", "str", "Name of encryption cipher mode"},
    {"encrypt.format", "str", "Encrypt the image, format choices: 'aes', 'luks'"},
    {"encrypt.hash-alg", "str", "Name of encryption hash algorithm"},
    {"encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds"},
    {"encrypt.ivgen-alg", "str", "Name of IV generator algorithm"},
    {"encrypt.ivgen-hash-alg", "str", "Name of IV generator hash algorithm"},
    {"encrypt.key-secret", "str", "ID of secret providing qcow AES key or LUKS passphrase"},
    {"encryption", "bool (on/off)", "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"},
    {"extended_l2", "bool (on/off)", "Extended L2 tables"},
    {"lazy_refcounts", "bool (on/off)", "Postpone refcount updates"},
    {"preallocation", "str", "Preallocation mode (allowed values: off, metadata, falloc, full)"},
    {"refcount_bits", "num", "Width of a reference count entry in bits"},
    {"size", "size", "Virtual disk size"},
};
constexpr Known kLuks[] = {
    {"cipher-alg", "str", "Name of encryption cipher algorithm"},
    {"cipher-mode", "str", "Name of encryption cipher mode"},
    {"hash-alg", "str", "Name of encryption hash algorithm"},
    {"iter-time", "num", "Time to spend in PBKDF in milliseconds"},
    {"ivgen-alg", "str", "Name of IV generator algorithm"},
    {"ivgen-hash-alg", "str", "Name of IV generator hash algorithm"},
    {"key-secret", "str", "ID of the secret that provides the keyslot passphrase"},
    {"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)"},
    {"size", "size", "Virtual disk size"},
};
constexpr const char* kLuksWords[] = {"key-secret", "cipher-alg", "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg", "iter-time"};

constexpr Known kRaw[] = {
    {"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)"},
    {"size", "size", "Virtual disk size"},
};

std::span<const Known> known_options(const std::string& format) {
  if (format == "qcow2") return kQcow2;
  if (format == "luks") return kLuks;
  return kRaw;
}

std::unexpected<Error> bad(const std::string& why) { return fail(ErrorKind::kInvalid, why, EINVAL); }

Result<bool> parse_switch(const std::string& name, const std::string& value) {
  if (value == "on" || value == "yes" || value == "true" || value == "y") return true;
  if (value == "off" || value == "no" || value == "false" || value == "n") return false;
  return bad("Parameter '" + name + "' expects 'on' or 'off'");
}

Result<uint64_t> size_option(const std::string& name, const std::string& value) {
  auto number = parse_bytes(value);
  if (number) return number;
  return bad("Parameter '" + name + "' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.");
}

Result<Preallocation> parse_preallocation(const std::string& value, bool metadata) {
  if (value == "off") return Preallocation::kOff;
  if (value == "metadata" && metadata) return Preallocation::kMetadata;
  if (value == "falloc") return Preallocation::kFalloc;
  if (value == "full") return Preallocation::kFull;
  return bad("Parameter 'preallocation' does not accept value '" + value + "'");
}

// The order in which options are told.
std::string told_options(const CreateWish& wish, const OptionList& options, uint64_t size) {
  auto get = [&](const char* key, const char* otherwise) {
    for (auto& [k, v] : options)
      if (k == key) return v;
    return std::string(otherwise);
  };
  std::string out = "fmt=" + wish.format;
  auto add = [&](const char* key, const std::string& value) {
    if (value.empty()) return;
    out += std::string(" ") + key + "=";
    for (char c : value) out += c == ',' ? ",," : std::string(1, c);
  };
  auto bytes = [&](const char* key, const char* otherwise) {
    auto number = parse_bytes(get(key, otherwise));
    return number ? std::to_string(*number) : get(key, otherwise);
  };
  auto on_off = [&](const char* key, const char* otherwise) {
    auto value = parse_switch(key, get(key, otherwise));
    return !value ? get(key, otherwise) : get(key, otherwise).empty() ? "" : std::string(*value ? "on" : "off");
  };
  if (wish.format != "qcow2") {
    add("size", std::to_string(size));
    if (wish.format == "luks")
      for (const char* word : kLuksWords) add(word, get(word, ""));
    add("preallocation", get("preallocation", ""));
    return out;
  }
  if (!get("encryption", "").empty()) add("encryption", on_off("encryption", "off"));
  add("encrypt.format", get("encrypt.format", ""));
  for (const char* word : kLuksWords) {
    std::string key = std::string("encrypt.") + word;
    add(key.c_str(), get(key.c_str(), ""));
  }
  add("cluster_size", bytes("cluster_size", "65536"));
  add("extended_l2", on_off("extended_l2", "off"));
  add("preallocation", get("preallocation", ""));
  add("compression_type", get("compression_type", "zlib"));
  add("size", std::to_string(size));
  add("compat", get("compat", ""));
  add("data_file", get("data_file", ""));
  if (!get("data_file_raw", "").empty()) add("data_file_raw", on_off("data_file_raw", "off"));
  add("backing_file", get("backing_file", ""));
  add("backing_fmt", get("backing_fmt", ""));
  add("lazy_refcounts", on_off("lazy_refcounts", "off"));
  add("refcount_bits", get("refcount_bits", "16"));
  return out;
}

Result<> create_file_for(const std::string& name, uint64_t size) { return storage::create_file(TRY(storage::plain_path(name)), size); }

Result<> create_qcow2(const CreateWish& wish, const qcow2::CreateConfig& config) {
  // All that can be wrong, before a file that is there is emptied.
  TRY_VOID(qcow2::validate(config));
  if (config.crypt != qcow2::Crypt::kNone && !config.secret) return bad("Parameter 'encrypt.key-secret' is required for cipher");
  if (!config.data_file.empty()) {
    std::string data = storage::resolve_backing(wish.name, config.data_file);
    if (same_file(wish.name, data)) return bad("the data file is the image itself");
    // One that is there is kept: its contents may be the reason for naming it.
    struct stat st;
    if (stat(data.c_str(), &st) != 0) TRY_VOID(storage::create_file(data, 0));
  }
  TRY_VOID(create_file_for(wish.name, 0));
  auto file = TRY(storage::open_file({.path = TRY(storage::plain_path(wish.name))}));
  TRY_VOID(qcow2::create(*file, config));
  file.reset();
  if (config.preallocation == Preallocation::kOff && config.data_file.empty()) return {};
  OpenWish open_wish{.format = "qcow2", .writable = true, .backing = false};
  for (auto& [key, value] : wish.options)
    if (key == "encrypt.key-secret") open_wish.key_secret = value;
  auto image = TRY(img::open(wish.name, open_wish));
  auto* q = as_qcow2(*image);
  if (!config.data_file.empty() && q->data_file().size() < config.size)
    TRY_VOID(q->data_file().truncate(config.size));
  if (config.preallocation != Preallocation::kOff || config.data_file_raw)
    TRY_VOID(q->preallocate(0, config.size, config.preallocation == Preallocation::kOff ? Preallocation::kMetadata : config.preallocation,
                              !config.backing_file.empty()));
  return q->close();
}

}  // namespace

void print_create_options(const std::string& format) {
  printf("Supported %s options:\n", format.c_str());
  auto print = [](std::span<const Known> list) {
    for (const Known& k : list) {
      std::string left = std::string(k.name) + "=<" + k.type + ">";
      printf("  %-22s - %s\n", left.c_str(), k.text);
    }
  };
  print(known_options(format));
}

Result<qcow2::CreateConfig> qcow2_config(const OptionList& options) {
  qcow2::CreateConfig c;
  bool legacy = false, encrypt_options = false;
  for (auto& [key, value] : options) {
    if (key == "size") c.size = TRY(size_option(key, value));
    else if (key == "compat") {
      if (value == "0.10" || value == "v2") c.version = 2;
      else if (value == "1.1" || value == "v3") c.version = 3;
      else return bad("Parameter 'version' does not accept value '" + value + "'");
    } else if (key == "cluster_size") c.cluster_size = TRY(size_option(key, value));
    else if (key == "refcount_bits") {
      char* end;
      unsigned long bits = strtoul(value.c_str(), &end, 10);
      if (*end || value.empty()) return bad("Parameter 'refcount_bits' expects a number");
      if (bits > 64) return bad("Refcount width must be a power of two and may not exceed 64 bits");
      c.refcount_bits = static_cast<unsigned>(bits);
    } else if (key == "lazy_refcounts") c.lazy_refcounts = TRY(parse_switch(key, value));
    else if (key == "extended_l2") c.extended_l2 = TRY(parse_switch(key, value));
    else if (key == "compression_type") {
      if (value == "zlib") c.compression = qcow2::Compression::kZlib;
      else if (value == "zstd") c.compression = qcow2::Compression::kZstd;
      else return bad("Parameter 'compression-type' does not accept value '" + value + "'");
    } else if (key == "backing_file") c.backing_file = value;
    else if (key == "backing_fmt") c.backing_format = value;
    else if (key == "data_file") c.data_file = value;
    else if (key == "data_file_raw") c.data_file_raw = TRY(parse_switch(key, value));
    else if (key == "preallocation") c.preallocation = TRY(parse_preallocation(value, true));
    else if (key == "encryption") legacy = TRY(parse_switch(key, value));
    else if (key == "encrypt.format") {
      if (value == "luks") c.crypt = qcow2::Crypt::kLuks;
      else if (value == "aes") c.crypt = qcow2::Crypt::kAes;
      else return bad("Parameter 'format' does not accept value '" + value + "'");
    } else if (key == "encrypt.key-secret") {
      c.secret = TRY(find_secret(value));
      encrypt_options = true;
    } else if (key.starts_with("encrypt.") && TRY(luks_option(key.substr(8), value, c.luks))) encrypt_options = true;
    else if (key == "extent_size_hint") continue;  // of the file system, and a hint
    else return bad("Invalid parameter '" + key + "'");
  }
  if (legacy && c.crypt != qcow2::Crypt::kNone) return bad("Options encryption and encrypt.format are mutually exclusive");
  if (legacy) c.crypt = qcow2::Crypt::kAes;
  if (encrypt_options && c.crypt == qcow2::Crypt::kNone) return bad("Parameter 'encrypt.format' is missing");
  if (c.refcount_bits == 0) return bad("Refcount width must be a power of two and may not exceed 64 bits");
  return c;
}

Result<> create_image(const CreateWish& wish) {
  if (wish.format != "qcow2" && wish.format != "raw" && wish.format != "luks") return bad("Unknown file format '" + wish.format + "'");
  OptionList options = wish.options;
  auto set = [&](const std::string& key, const std::string& value) {
    for (auto& [k, v] : options)
      if (k == key) return void(v = value);
    options.emplace_back(key, value);
  };
  auto get = [&](const std::string& key) {
    for (auto& [k, v] : options)
      if (k == key) return v;
    return std::string();
  };
  std::span<const Known> known = known_options(wish.format);
  for (auto& [key, value] : options)
    if (std::ranges::none_of(known, [&](const Known& k) { return key == k.name; }) && key != "extent_size_hint") return bad("Invalid parameter '" + key + "'");
  if (!wish.backing.empty()) {
    if (wish.format != "qcow2") return bad("Backing file not supported for file format '" + wish.format + "'");
    set("backing_file", wish.backing);
  }
  if (!wish.backing_format.empty()) {
    if (wish.format != "qcow2") return bad("Backing format not supported for file format '" + wish.format + "'");
    set("backing_fmt", wish.backing_format);
  }
  const std::string backing = get("backing_file"), backing_format = get("backing_fmt");
  if (!backing_format.empty() && backing_format != "raw" && backing_format != "qcow2" && backing_format != "luks") return bad("Unknown backing file format '" + backing_format + "'");
  if (!backing.empty() && same_file(wish.name, storage::resolve_backing(wish.name, backing)))
    return bad("Trying to create an image with the same filename as the backing file");
  if (!backing.empty() && backed_by(storage::resolve_backing(wish.name, backing), backing_format, wish.name))
    return bad("it is a backing file of '" + backing + "' and cannot be an overlay over it");
  std::optional<uint64_t> size = wish.size;
  if (!size && !get("size").empty()) size = TRY(size_option("size", get("size")));
  if (!backing.empty() && !wish.unsafe) {
    std::string full = storage::resolve_backing(wish.name, backing);
    auto below = img::open(full, {.format = backing_format, .no_data = true});
    if (!below) {
      std::string why = below.error().message, prefix = "Could not open '" + full + "': ";
      if (why.starts_with(prefix + "Could not open")) why.erase(0, prefix.size());
      return bad(why + "\nCould not open backing image.");
    }
    if (backing_format.empty())
      return bad("Backing file specified without backing format\nDetected format of " + std::string((*below)->format()) + ".");
    if (!size) size = (*below)->size();
  } else if (!backing.empty() && backing_format.empty() && !wish.unsafe) {
    return bad("Backing file specified without backing format");
  }
  if (!size) return bad("Image creation needs a size parameter");
  const uint64_t rounded = (*size + 511) / 512 * 512;
  if (wish.print && !wish.quiet) {
    printf("Formatting '%s', %s\n", wish.name.c_str(), told_options(wish, options, *size).c_str());
    flush_output();
  }
  if (wish.format == "qcow2") {
    set("size", std::to_string(rounded));
    return create_qcow2(wish, TRY(qcow2_config(options)));
  }
  if (wish.format == "luks") {
    storage::LuksOptions luks;
    for (auto& [key, value] : options) TRY(luks_option(key, value, luks));
    if (get("key-secret").empty()) return bad("Parameter 'key-secret' is required for cipher");
    auto secret = TRY(find_secret(get("key-secret")));
    TRY_VOID(storage::Luks::plan(luks));
    Preallocation mode = get("preallocation").empty() ? Preallocation::kOff : TRY(parse_preallocation(get("preallocation"), false));
    TRY_VOID(create_file_for(wish.name, 0));
    auto file = TRY(storage::open_file({.path = TRY(storage::plain_path(wish.name))}));
    return storage::LuksImage::create(*file, rounded, luks, secret, mode);
  }
  Preallocation preallocation = Preallocation::kOff;
  if (std::string mode = get("preallocation"); !mode.empty()) preallocation = TRY(parse_preallocation(mode, false));
  if (preallocation == Preallocation::kOff && wish.reused) {
    *wish.reused = TRY(storage::reuse_file(TRY(storage::plain_path(wish.name)), rounded));
    return {};
  }
  TRY_VOID(create_file_for(wish.name, preallocation == Preallocation::kOff ? rounded : 0));
  if (preallocation == Preallocation::kOff) return {};
  auto file = TRY(storage::open_file({.path = TRY(storage::plain_path(wish.name))}));
  return storage::grow_file(*file, 0, rounded, preallocation);
}

Result<int> create(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "F:b:f:o:qu", {}));
  CreateWish wish;
  wish.format = a.get("f", "raw");
  for (const std::string& o : a.all("o"))
    if (o == "help" || o == "?" || o.ends_with(",help") || o.ends_with(",?") || o.starts_with("help,") || o.starts_with("?,")) {
      if (wish.format != "qcow2" && wish.format != "raw" && wish.format != "luks") return bad("Unknown file format '" + wish.format + "'");
      print_create_options(wish.format);
      if (a.names.empty()) printf("\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n");
      return 0;
    }
  if (a.names.empty()) return bad("Expecting image file name");
  if (a.names.size() > 2) return bad("Unexpected argument: " + a.names[2]);
  wish.name = a.names[0];
  if (a.has("b") && a.get("b").empty()) return bad(wish.name + ": Expected backing file name, got empty string");
  wish.backing = a.get("b");
  wish.backing_format = a.get("F");
  wish.quiet = a.has("q");
  wish.unsafe = a.has("u");
  wish.options = TRY(parse_options(a.all("o")));
  if (a.names.size() > 1) wish.size = TRY(parse_bytes(a.names[1]));
  for (auto& [key, value] : wish.options)
    if (key == "size" && wish.size) return bad(wish.name + ": The image size must be specified only once");
  auto made = create_image(wish);
  if (!made) return std::unexpected(std::move(made).error().within(wish.name));
  return 0;
}

}  // namespace vireo::cli::img
