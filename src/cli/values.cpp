// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <climits>

#include "cli/options.h"

namespace vireo::cli {
namespace {

std::unexpected<Error> bad(const std::string& option, const std::string& value, const std::string& reason) {
  return fail(ErrorKind::kInvalid, option + " " + value + ": " + reason);
}

std::optional<uint64_t> to_number(std::string_view text) {
  uint64_t value = 0;
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) text.remove_prefix(2), base = 16;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return {};
  return value;
}

}  // namespace

Result<WordList> split_words(const std::string& text, const std::string& option) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] != ',')
      parts.back() += text[i];
    else if (i + 1 < text.size() && text[i + 1] == ',')
      parts.back() += ',', i++;
    else
      parts.emplace_back();
  }
  WordList list{parts[0], {}};
  for (size_t i = 1; i < parts.size(); i++) {
    size_t equals = parts[i].find('=');
    if (parts[i].empty() || equals == 0) return bad(option, text, "empty word between commas (write ,, for a comma)");
    if (equals == std::string::npos)
      list.rest.emplace_back(parts[i], "");
    else
      list.rest.emplace_back(parts[i].substr(0, equals), parts[i].substr(equals + 1));
  }
  return list;
}

Result<kvm::CodeFolder> parse_code_cache(const std::string& text) {
  const std::string option = "--code-cache";
  const WordList list = TRY(split_words(text, option));
  if (list.first.empty()) return bad(option, text, "a folder is missing");
  kvm::CodeFolder folder{.path = list.first};
  for (const auto& [key, value] : list.rest) {
    if (key != "size") return bad(option, text, "unknown word '" + key + "'");
    folder.most = TRY(parse_size(value, option));
    if (folder.most < 1u << 20) return bad(option, text, "size is at least 1M");
  }
  return folder;
}

Result<uint64_t> parse_size(const std::string& text, const std::string& option) {
  std::string digits = text;
  unsigned shift = 20;
  if (!digits.empty() && isalpha(static_cast<unsigned char>(digits.back()))) {
    switch (toupper(digits.back())) {
      case 'K': shift = 10; break;
      case 'M': shift = 20; break;
      case 'G': shift = 30; break;
      case 'T': shift = 40; break;
      default: return bad(option, text, "not a size (512M, 2G; without a letter MiB)");
    }
    digits.pop_back();
  }
  auto value = to_number(digits);
  if (!value || *value == 0) return bad(option, text, "not a size (512M, 2G; without a letter MiB)");
  if (*value > UINT64_MAX >> shift) return bad(option, text, "too large");
  return *value << shift;
}

Result<uint64_t> parse_number(const std::string& text, const std::string& option, uint64_t least, uint64_t most) {
  auto value = to_number(text);
  if (!value || *value < least || *value > most)
    return bad(option, text, "a number from " + std::to_string(least) + " to " + std::to_string(most) + " is needed");
  return *value;
}

Result<bool> parse_switch(const std::string& text, const std::string& option) {
  for (const char* yes : {"", "on", "yes", "true", "1"})
    if (text == yes) return true;
  for (const char* no : {"off", "no", "false", "0"})
    if (text == no) return false;
  return bad(option, text, "on or off is needed");
}

Result<std::vector<int>> parse_cpu_list(const std::string& text, const std::string& option) {
  std::vector<int> cpus;
  size_t at = 0;
  while (at <= text.size()) {
    size_t comma = std::min(text.find(',', at), text.size());
    std::string part = text.substr(at, comma - at);
    size_t dash = part.find('-');
    auto first = to_number(part.substr(0, dash));
    auto last = dash == std::string::npos ? first : to_number(part.substr(dash + 1));
    if (!first || !last || *first > *last || *last >= 1024) return bad(option, text, "not a list of CPUs (0-3,6)");
    for (uint64_t cpu = *first; cpu <= *last; cpu++) cpus.push_back(static_cast<int>(cpu));
    at = comma + 1;
  }
  return cpus;
}

Result<std::string> parse_qmp(const std::string& text) {
  const std::string option = "--qmp";
  WordList words = TRY(split_words(text, option));
  if (words.first.starts_with("tcp:")) return bad(option, text, "a Unix socket is needed (unix:PATH): over TCP every user of this host could come");
  if (!words.first.starts_with("unix:") || words.first.size() == 5) return bad(option, text, "unix:PATH is needed");
  for (auto& [key, value] : words.rest) {
    // QEMU's words, as far as they mean what we do: we listen, and wait for nobody.
    const bool known = key == "server" || key == "wait" || key == "nowait";
    if (!known) return bad(option, text, "unknown word " + key + " (see vireo run --help qmp)");
    const bool on = TRY(parse_switch(value, option + " " + key));
    if (key == "server" && !on) return bad(option, text, "only server=on is there");
    if (key == "wait" && on) return bad(option, text, "only wait=off is there");
  }
  return words.first.substr(5);
}

Result<MemoryConfig> parse_memory(const std::string& text) {
  const std::string option = "--memory";
  WordList words = TRY(split_words(text, option));
  MemoryConfig config;
  config.size = TRY(parse_size(words.first, option));
  using Backing = MemoryConfig::Backing;
  for (auto& [key, value] : words.rest) {
    if (key == "prealloc") {
      config.prealloc = TRY(parse_switch(value, option + " prealloc"));
    } else if (key == "mergeable") {
      config.mergeable = TRY(parse_switch(value, option + " mergeable"));
    } else if (key == "thp") {
      config.transparent_huge_pages = TRY(parse_switch(value, option + " thp"));
    } else if (key == "numa") {
      config.numa_node = static_cast<int>(TRY(parse_number(value, option + " numa", 0, 1023)));
    } else if (key == "hugetlb" || (key == "backing" && value.starts_with("hugetlb"))) {
      config.backing = Backing::kHugetlb;
      std::string size = key == "hugetlb" ? value : value.size() > 8 ? value.substr(8) : "";
      if (!size.empty()) config.huge_page_size = TRY(parse_size(size, option + " hugetlb"));
    } else if (key == "backing" && value == "memfd") {
      config.backing = Backing::kMemfd;
    } else if (key == "backing" && value == "anonymous") {
      config.backing = Backing::kAnonymous;
    } else if (key == "file" || (key == "backing" && value.starts_with("file="))) {
      config.backing = Backing::kFile;
      config.path = key == "file" ? value : value.substr(5);
    } else {
      return bad(option, text, "unknown word " + key + (value.empty() ? "" : "=" + value) + " (see vireo run --help memory)");
    }
  }
  return config;
}

Result<NumaConfig> parse_numa(const std::string& text) {
  const std::string option = "--numa";
  WordList words = TRY(split_words("," + text, option));  // no word of its own comes first
  NumaConfig node;
  for (auto& [key, value] : words.rest) {
    if (key == "memory") {
      node.memory = TRY(parse_size(value, option + " memory"));
    } else if (key == "cpus") {
      for (int cpu : TRY(parse_cpu_list(value, option + " cpus"))) node.cpus.push_back(static_cast<unsigned>(cpu));
    } else {
      return bad(option, text, "unknown word " + key + " (see vireo run --help memory)");
    }
  }
  return node;
}

// bps, bps-rd, iops-wr-max, iops-max-length ..., iops-size: bytes or requests a second.
Result<> parse_throttle(const std::string& key, const std::string& value, const std::string& text, storage::ThrottleConfig& throttle) {
  using storage::ThrottleConfig;
  const std::string option = "--disk";
  static constexpr const char* kNames[] = {"bps", "bps-rd", "bps-wr", "iops", "iops-rd", "iops-wr"};
  const bool bytes = key.starts_with("bps") && !key.ends_with("-length");
  const bool plain = !value.empty() && isdigit(static_cast<unsigned char>(value.back()));
  const uint64_t number = bytes && !plain ? TRY(parse_size(value, option + " " + key)) : TRY(parse_number(value, option + " " + key, 0, UINT64_MAX));
  if (key == "iops-size") {
    throttle.iops_size = number;
    return {};
  }
  for (size_t i = 0; i < ThrottleConfig::kKinds; i++) {
    const std::string name = kNames[i];
    if (key == name) throttle.limits[i].average = number;
    else if (key == name + "-max") throttle.limits[i].max = number;
    else if (key == name + "-max-length") throttle.limits[i].burst_seconds = number;
    else continue;
    return {};
  }
  return bad(option, text, "unknown word " + key + " (see vireo run --help disk)");
}

Result<DiskOptions> parse_disk(const std::string& text) {
  const std::string option = "--disk";
  WordList words = TRY(split_words(text, option));
  if (words.first.empty()) return bad(option, text, "the file is missing");
  DiskOptions disk{.path = words.first};
  constexpr std::string_view kVhostUser = "vhost-user=";
  if (disk.path.starts_with(kVhostUser)) {
    disk.path.erase(0, kVhostUser.size());
    disk.vhost_user = true;
    if (disk.path.empty()) return bad(option, text, "vhost-user= names the back-end's socket");
  }
  for (auto& [key, value] : words.rest) {
    if (disk.vhost_user && key != "queues") return bad(option, text, "the rest is the back-end's; queues=N alone is said here");
    if (key == "readonly") {
      disk.readonly = TRY(parse_switch(value, option + " readonly"));
    } else if (key == "serial") {
      if (value.size() > 20) return bad(option, text, "serial has at most 20 bytes");
      disk.serial = value;
    } else if (key == "cache") {
      if (value != "writeback" && value != "none" && value != "writethrough" && value != "unsafe" && value != "directsync")
        return bad(option, text, "cache is one of writeback, none, writethrough, directsync, unsafe");
      disk.cache = value;
    } else if (key == "format") {
      disk.format = value;
    } else if (key == "power-cut-test") {
      disk.power_cut_seed = TRY(parse_number(value, option + " power-cut-test", 0, UINT64_MAX));
    } else if (key == "key-file") {
      if (value.empty()) return bad(option, text, "key-file names the file with the password");
      disk.key_file = value;
    } else if (key == "id") {
      const bool good = !value.empty() && value.size() < 64 && isalpha(static_cast<unsigned char>(value[0])) &&
                        std::ranges::all_of(value, [](unsigned char c) { return isalnum(c) || c == '-' || c == '_' || c == '.'; });
      if (!good) return bad(option, text, "id is a name: letters, digits, - _ and .");
      disk.id = value;
    } else if (key.starts_with("bps") || key.starts_with("iops")) {
      TRY_VOID(parse_throttle(key, value, text, disk.throttle));
    } else if (key == "queues") {
      disk.queues = static_cast<unsigned>(TRY(parse_number(value, option + " queues", 1, 64)));
    } else {
      return bad(option, text, "unknown word " + key + " (see vireo run --help disk)");
    }
  }
  if (auto good = disk.throttle.check(); !good) return bad(option, text, good.error().message.c_str());
  return disk;
}

Result<NetOptions> parse_net(const std::string& text) {
  const std::string option = "--net";
  WordList words = TRY(split_words(text, option));
  NetOptions net;
  net.text = text;
  if (words.first == "user")
    net.kind = NetOptions::Kind::kUser;
  else if (words.first == "tap")
    net.kind = NetOptions::Kind::kTap;
  else if (words.first == "none")
    net.kind = NetOptions::Kind::kNone;
  else
    return bad(option, text, "user, tap or none");
  for (auto& [key, value] : words.rest) {
    if (key == "forward" && net.kind == NetOptions::Kind::kUser) {
      // [tcp:|udp:][ADDRESS:]HOSTPORT:GUESTPORT
      NetOptions::Forward forward;
      std::string rule = value;
      if (rule.starts_with("tcp:") || rule.starts_with("udp:")) forward.udp = rule[0] == 'u', rule = rule.substr(4);
      size_t last = rule.rfind(':');
      if (last == std::string::npos) return bad(option, text, "forward is [tcp|udp:][ADDRESS:]HOSTPORT:GUESTPORT");
      forward.guest_port = static_cast<uint16_t>(TRY(parse_number(rule.substr(last + 1), option + " forward", 1, 65535)));
      rule.resize(last);
      size_t colon = rule.rfind(':');
      if (colon != std::string::npos) forward.host_address = rule.substr(0, colon), rule = rule.substr(colon + 1);
      forward.host_port = static_cast<uint16_t>(TRY(parse_number(rule, option + " forward", 0, 65535)));
      net.forwards.push_back(forward);
    } else if (key == "ifname" && net.kind == NetOptions::Kind::kTap) {
      net.interface = value;
    } else if (key == "tftp" && net.kind == NetOptions::Kind::kUser && !value.empty()) {
      net.tftp = value;
    } else if (key == "bootfile" && net.kind == NetOptions::Kind::kUser && !value.empty()) {
      if (value.size() > 127) return bad(option, text, "bootfile has at most 127 bytes, as DHCP's field does");
      net.boot_file = value;
    } else if (key == "rom" && net.kind != NetOptions::Kind::kNone && !value.empty()) {
      net.rom = value;
    } else if (key == "mac") {
      net.mac = value;
    } else {
      return bad(option, text, "unknown word " + key + " (see vireo run --help net)");
    }
  }
  return net;
}

Result<SerialOptions> parse_serial(const std::string& text, const std::string& option) {
  using Kind = SerialOptions::Kind;
  if (text == "stdio") return SerialOptions{Kind::kStdio, ""};
  if (text == "null") return SerialOptions{Kind::kNull, ""};
  if (text == "pty") return SerialOptions{Kind::kPty, ""};
  if (text.starts_with("file:") && text.size() > 5) return SerialOptions{Kind::kFile, text.substr(5)};
  return bad(option, text, "one of stdio, file:PATH, null, pty");
}

}  // namespace vireo::cli
