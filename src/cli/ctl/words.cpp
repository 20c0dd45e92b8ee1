// SPDX-License-Identifier: Apache-2.0
#include "cli/ctl/words.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>

namespace vireo::cli::ctl {

using Json = nlohmann::json;

const std::vector<Word>& words() {
  static constexpr char kNoLimits[] = R"({"bps":0,"bps_rd":0,"bps_wr":0,"iops":0,"iops_rd":0,"iops_wr":0})";
  static const std::vector<Word> all = {
      {"status", "query-status", {}, nullptr, false, "running, paused ..."},
      {"stop", "stop", {}, nullptr, false, "the virtual CPUs stand still"},
      {"cont", "cont", {}, nullptr, false, "... and go on"},
      {"powerdown", "system_powerdown", {}, nullptr, false, "press the power button"},
      {"reset", "system_reset", {}, nullptr, false, "as the reset button"},
      {"wakeup", "system_wakeup", {}, nullptr, false, "from suspend to RAM"},
      {"screen", "x-query-screen", {}, nullptr, false, "the text on the screen of a machine with --vga"},
      {"screendump", "screendump", {"filename"}, nullptr, false, "FILE [format=ppm|text]: a picture of the screen"},
      {"quit", "quit", {}, nullptr, false, "end the machine now"},
      {"block list", "query-block", {}, nullptr, false, "disks"},
      {"block nodes", "query-named-block-nodes", {}, nullptr, false, "images, by node"},
      {"block stats", "query-blockstats", {}, nullptr, false, "what was read and written"},
      {"block jobs", "query-block-jobs", {}, nullptr, false, "jobs under way"},
      {"block snapshot", "blockdev-snapshot-sync", {"device", "snapshot-file"}, nullptr, false, "DISK FILE: from now on writes go to the new FILE"},
      {"block save", "blockdev-snapshot-internal-sync", {"device", "name"}, nullptr, false, "DISK NAME: a snapshot inside of the image"},
      {"block forget", "blockdev-snapshot-delete-internal-sync", {"device", "name"}, nullptr, false, "DISK NAME: deletes such a snapshot"},
      {"block stream", "block-stream", {"device", "?base"}, nullptr, true, "DISK [BASE]: copies what the images above BASE have into the top one"},
      {"block commit", "block-commit", {"device", "?base"}, nullptr, true, "DISK [BASE] [top=FILE]: copies what images above BASE have into it"},
      {"block mirror", "drive-mirror", {"device", "target"}, R"({"sync":"full"})", true, "DISK FILE: a copy that follows; complete switches to it"},
      {"block backup", "drive-backup", {"device", "target"}, R"({"sync":"full"})", true, "DISK FILE [sync=full|top|none|incremental bitmap=NAME]"},
      {"block complete", "block-job-complete", {"device"}, nullptr, false, "JOB: a ready job switches over and ends"},
      {"block cancel", "block-job-cancel", {"device"}, nullptr, false, "JOB"},
      {"block pause", "block-job-pause", {"device"}, nullptr, false, "JOB"},
      {"block resume", "block-job-resume", {"device"}, nullptr, false, "JOB"},
      {"block speed", "block-job-set-speed", {"device", "speed"}, nullptr, false, "JOB BYTES: a second; 0: as fast as can be"},
      {"block resize", "block_resize", {"device", "size"}, nullptr, false, "DISK SIZE [shrink=true]: 20G; bytes without a letter"},
      {"block throttle", "block_set_io_throttle", {"device"}, kNoLimits, false, "DISK [bps=N] [iops=N] [bps_rd=N] ...; without: no limits"},
      {"bitmap add", "block-dirty-bitmap-add", {"node", "name"}, nullptr, false, "DISK NAME [persistent=true] [granularity=N]"},
      {"bitmap remove", "block-dirty-bitmap-remove", {"node", "name"}, nullptr, false, "DISK NAME"},
      {"bitmap clear", "block-dirty-bitmap-clear", {"node", "name"}, nullptr, false, "DISK NAME"},
      {"bitmap enable", "block-dirty-bitmap-enable", {"node", "name"}, nullptr, false, "DISK NAME"},
      {"bitmap disable", "block-dirty-bitmap-disable", {"node", "name"}, nullptr, false, "DISK NAME"},
  };
  return all;
}

const Word* find_word(const std::vector<std::string>& given, size_t& used) {
  for (const Word& word : words()) {
    const std::string all = word.words;
    const size_t space = all.find(' ');
    if (given.empty() || given[0] != all.substr(0, space)) continue;
    if (space == std::string::npos) return used = 1, &word;
    if (given.size() > 1 && given[1] == all.substr(space + 1)) return used = 2, &word;
  }
  return nullptr;
}

std::string second_words(const std::string& first) {
  std::string out;
  for (const Word& word : words())
    if (const std::string all = word.words; all.starts_with(first + " ")) out += (out.empty() ? "" : ", ") + all.substr(first.size() + 1);
  return out;
}

namespace {

// 64M and the like, where a number is meant.
std::optional<uint64_t> number(std::string text) {
  unsigned shift = 0;
  if (!text.empty()) {
    const char* letters = "KMGT";
    if (const char* at = strchr(letters, text.back()); at && text.back()) shift = 10 * static_cast<unsigned>(at - letters + 1), text.pop_back();
  }
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || value > UINT64_MAX >> shift) return {};
  return value << shift;
}

bool is_number(const std::string& name) {
  for (const char* known : {"size", "speed", "granularity", "buf-size", "buf_size", "x-perf"})
    if (name == known) return true;
  return name.starts_with("bps") || name.starts_with("iops");
}

Result<Json> value_of(const std::string& name, const std::string& text) {
  if (text == "true" || text == "false") return Json(text == "true");
  if (!is_number(name)) return Json(text);
  auto value = number(text);
  if (!value) return fail(ErrorKind::kInvalid, "ctl: " + name + " " + text + ": a number is needed (64M, 1G)");
  return Json(*value);
}

// The machine would take a file's name from its own folder, and write over what is there, as QEMU does: here a name is as in every command,
// and a file that is there is not lost without `mode`. Names with a protocol stay.
Result<> place_files(const Word& word, Json& out) {
  for (const char* key : {"snapshot-file", "target", "filename"}) {
    const auto at = out.find(key);
    if (at == out.end() || !at->is_string()) continue;
    const std::string name = *at;
    if (name.empty() || name.find(':') < name.find('/')) continue;
    struct stat there;
    if (strcmp(key, "filename") != 0 && !out.contains("mode") && stat(name.c_str(), &there) == 0 && S_ISREG(there.st_mode) && there.st_size > 0)
      return fail(ErrorKind::kInvalid, std::string("ctl ") + word.words + ": " + name + " is there already; mode=absolute-paths writes over it, mode=existing takes it as it is");
    std::error_code error;
    const auto whole = std::filesystem::absolute(name, error);
    if (error) return fail_errno(std::string("ctl ") + word.words + ": " + name, error.value());
    *at = whole.string();
  }
  return {};
}

}  // namespace

Result<Json> arguments(const Word& word, const std::vector<std::string>& rest) {
  Json out = word.defaults ? Json::parse(word.defaults) : Json::object();
  size_t place = 0;
  for (const std::string& text : rest) {
    const size_t equals = text.find('=');
    std::string name, value = text;
    // A file's name may have = in it; a name in QMP is letters.
    if (equals != std::string::npos && equals > 0 && std::all_of(text.begin(), text.begin() + static_cast<long>(equals), [](char c) { return isalpha(static_cast<unsigned char>(c)) || c == '-' || c == '_'; })) {
      name = text.substr(0, equals);
      value = text.substr(equals + 1);
    } else if (place < word.places.size()) {
      name = word.places[place++];
      if (name[0] == '?') name.erase(0, 1);
    } else {
      return fail(ErrorKind::kInvalid, std::string("ctl ") + word.words + ": " + text + " is one word too many");
    }
    out[name] = TRY(value_of(name, value));
  }
  for (const char* name : word.places)
    if (name[0] != '?' && !out.contains(name)) return fail(ErrorKind::kInvalid, std::string("ctl ") + word.words + ": " + word.help);
  TRY_VOID(place_files(word, out));
  return out;
}

}  // namespace vireo::cli::ctl
