// SPDX-License-Identifier: Apache-2.0
// Taking command lines apart, and the values in them.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "cli/img/img.h"
#include "cli/img/secrets.h"
#include "cli/standard_files.h"
#include "storage/nbd/nbd_file.h"

namespace vireo::cli::img {

Result<Arguments> parse_arguments(int argc, char** argv, const std::string& letters, const std::vector<std::string>& words) {
  std::vector<std::string> names;
  std::vector<option> table;
  std::vector<int> letter_of;
  for (const std::string& word : words) {
    size_t end = word.find_first_of(":=");
    names.push_back(word.substr(0, end));
    letter_of.push_back(end != std::string::npos && word[end] == '=' ? word[end + 1] : 0);
  }
  for (size_t i = 0; i < words.size(); ++i) {
    bool value = words[i].ends_with(":");
    if (letter_of[i]) {
      size_t at = letters.find(static_cast<char>(letter_of[i]));
      value = at != std::string::npos && at + 1 < letters.size() && letters[at + 1] == ':';
    }
    table.push_back({names[i].c_str(), value ? required_argument : no_argument, nullptr, static_cast<int>(1000 + i)});
  }
  table.push_back({"object", required_argument, nullptr, 999});
  table.push_back({"help", no_argument, nullptr, 'h'});
  table.push_back({});
  Arguments out;
  optind = 0;
  std::string short_options = letters + "h";
  for (;;) {
    int c = getopt_long(argc, argv, short_options.c_str(), table.data(), nullptr);
    if (c < 0) break;
    const char* value = optarg ? optarg : "";
    if (c == '?') {
      fprintf(stderr, "Try '%s --help' for more information\n", argv[0]);
      return told();
    }
    if (c == 999) {
      TRY_VOID(add_object(value));
      continue;
    }
    if (c >= 1000) {
      size_t i = static_cast<size_t>(c - 1000);
      out.add(letter_of[i] ? std::string(1, static_cast<char>(letter_of[i])) : names[i], value);
    } else {
      out.add(std::string(1, static_cast<char>(c)), value);
    }
  }
  for (int i = optind; i < argc; ++i) out.names.emplace_back(argv[i]);
  return out;
}

Result<OptionList> parse_options(const std::vector<std::string>& texts) {
  OptionList out;
  for (const std::string& text : texts) {
    if (text.starts_with(",") || (text.ends_with(",") && !text.ends_with(",,")))
      return fail(ErrorKind::kInvalid, "Invalid option list: " + text);
    std::string word;
    auto finish = [&] {
      if (word.empty()) return;
      size_t equal = word.find('=');
      std::string key = word.substr(0, equal), value = equal == std::string::npos ? "on" : word.substr(equal + 1);
      bool found = false;
      for (auto& [k, v] : out)
        if (k == key) v = value, found = true;
      if (!found) out.emplace_back(key, value);
      word.clear();
    };
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != ',') word += text[i];
      else if (i + 1 < text.size() && text[i + 1] == ',') word += ',', ++i;
      else finish();
    }
    finish();
  }
  return out;
}

Result<uint64_t> parse_bytes(const std::string& text) {
  const std::string bad = "Invalid image size specified. You may use k, M, G, T, P or E suffixes for\n\1kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.";
  const char* p = text.c_str();
  if (!isdigit(static_cast<unsigned char>(*p))) return fail(ErrorKind::kInvalid, bad, EINVAL);
  char* end;
  errno = 0;
  unsigned long long whole = strtoull(p, &end, p[0] == '0' && (p[1] == 'x' || p[1] == 'X') ? 16 : 10);
  long double fraction = 0;
  if (*end == '.') {
    const char* digits = end;
    fraction = strtold(digits, &end);
  }
  if (errno == ERANGE) return fail(ErrorKind::kInvalid, "Image size must be less than 8 EiB!", ERANGE);
  unsigned shift = 0;
  switch (toupper(static_cast<unsigned char>(*end))) {
    case 0: break;
    case 'B': ++end; break;
    case 'K': shift = 10; ++end; break;
    case 'M': shift = 20; ++end; break;
    case 'G': shift = 30; ++end; break;
    case 'T': shift = 40; ++end; break;
    case 'P': shift = 50; ++end; break;
    case 'E': shift = 60; ++end; break;
    default: return fail(ErrorKind::kInvalid, bad, EINVAL);
  }
  if (*end) return fail(ErrorKind::kInvalid, bad, EINVAL);
  long double value = (static_cast<long double>(whole) + fraction) * static_cast<long double>(1ull << shift);
  if (value > 9.2e18L) return fail(ErrorKind::kInvalid, "Image size must be less than 8 EiB!", ERANGE);
  return (whole << shift) + static_cast<uint64_t>(fraction * static_cast<long double>(1ull << shift));
}

std::string human_size(uint64_t bytes) {
  static const char* const kUnits[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
  int exponent;
  frexp(static_cast<double>(bytes) / (1000.0 / 1024.0), &exponent);
  int unit = std::max(0, (exponent - 1) / 10);
  char text[48];
  snprintf(text, sizeof text, "%0.3g %sB", static_cast<double>(bytes) / static_cast<double>(1ull << (unit * 10)), kUnits[unit]);
  return text;
}

Result<Output> parse_output(const Arguments& arguments) {
  std::string text = arguments.get("output", "human");
  if (text == "json") return Output::kJson;
  if (text == "human") return Output::kHuman;
  return fail(ErrorKind::kInvalid, "--output must be used with human or json as argument.");
}

bool valid_cache(const std::string& mode) {
  return mode == "none" || mode == "off" || mode == "writeback" || mode == "writethrough" || mode == "directsync" || mode == "unsafe";
}

Result<std::shared_ptr<Image>> open(const std::string& text, const OpenWish& wish) {
  storage::OpenOptions options;
  std::string name = text;
  options.format = wish.format;
  options.find_secret = find_secret;
  if (wish.image_options) {
    name = wish.name_beside_options;
    options.spec = storage::ImageSpec(TRY(parse_options({text})));
  }
  if (!wish.key_secret.empty()) options.keys.push_back(TRY(find_secret(wish.key_secret)));
  if (!valid_cache(wish.cache)) return fail(ErrorKind::kInvalid, "Invalid cache option: " + wish.cache);
  options.no_data = wish.no_data;
  options.read_only = !wish.writable;
  options.backing = wish.backing;
  options.share_writers = wish.force_share;
  options.direct = wish.cache == "none" || wish.cache == "off" || wish.cache == "directsync";
  options.no_flush = wish.cache == "unsafe";
  options.repair_dirty = wish.repair;
  options.qcow2.allow_dirty = !wish.repair;
  options.qcow2.allow_corrupt = wish.corrupt_too;
  options.note = [](const std::string& line) { fprintf(stderr, "%s\n", line.c_str()); };
  if (wish.writable && options.format.empty() && options.spec.empty() && !name.starts_with("blkdebug:") && !storage::ImageSpec::is_json(name) &&
      !storage::nbd::parse_address(name)) {
    // What a guest wrote into a raw disk must not decide what it is taken for without a word.
    auto file = storage::open_file({.path = TRY(storage::plain_path(name)), .read_only = true, .lock = false});
    if (file) {
      auto format = storage::probe_format(**file);
      if (format && *format == "raw")
        fprintf(stderr, "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
                "         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n"
                "         Specify the 'raw' format explicitly to remove the restrictions.\n", name.c_str());
    }
  }
  auto image = storage::open_image(name, std::move(options));
  if (!image && name.empty()) {
    // With no name of its own, the options are what it is called.
    const std::string unnamed = "Could not open '': ";
    if (image.error().message.starts_with(unnamed)) image.error().message.replace(0, unnamed.size(), "Could not open '" + text + "': ");
  }
  return image;
}

storage::qcow2::Qcow2* as_qcow2(Image& image) { return dynamic_cast<storage::qcow2::Qcow2*>(&image); }

void Progress::show(uint64_t done, uint64_t all) {
  if (!on_) return;
  double percent = all ? 100.0 * static_cast<double>(done) / static_cast<double>(all) : 100;
  if (static_cast<int>(percent) == last_) return;
  last_ = static_cast<int>(percent);
  printf("    (%3.2f/100%%)\r", percent);
  flush_output();
}

void Progress::end() {
  if (!on_) return;
  printf("    (100.00/100%%)\r\n");
  flush_output();
}

}  // namespace vireo::cli::img
