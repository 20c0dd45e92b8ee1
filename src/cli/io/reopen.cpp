// SPDX-License-Identifier: Apache-2.0
// reopen: the same image with other options. Only how it is used may change, and when that cannot be done it stays as it was.
#include <algorithm>
#include <initializer_list>

#include "cli/io/session.h"
#include "storage/image/qcow2_options.h"

namespace vireo::cli::io {
namespace {

std::unexpected<Error> fixed(const std::string& option) { return fail(ErrorKind::kInvalid, "Cannot change the option '" + option + "'", EINVAL); }

// The options that the image was opened by, without those of a name.
Result<storage::ImageSpec> opened_by(const Session& session) {
  if (session.wish.image_options) return storage::ImageSpec(TRY(img::parse_options({session.name})));
  if (storage::ImageSpec::is_json(session.name)) return storage::ImageSpec::from_json(session.name);
  return storage::ImageSpec();
}

// The driver that an option's node has, whether said or found; "file" and "backing" name those below.
std::string driver_of(Session& session, const std::string& node) {
  storage::Image* image = session.image.get();
  std::string rest = node;
  for (; image && rest.starts_with("backing."); rest.erase(0, 8)) image = image->backing();
  if (!image) return "";
  return rest.empty() ? image->format() : rest == "file." ? "file" : "";
}

Result<> same_nodes(Session& session, const storage::ImageSpec& before, const img::OptionList& options) {
  for (auto& [key, value] : options) {
    const size_t dot = key.rfind('.');
    const std::string leaf = dot == std::string::npos ? key : key.substr(dot + 1), node = dot == std::string::npos ? "" : key.substr(0, dot + 1);
    if (leaf != "driver" && leaf != "node-name" && leaf != "filename") continue;
    const std::string was = before.get(key).value_or(leaf == "driver" ? driver_of(session, node) : "");
    if (was != value) return fixed(leaf);
  }
  return {};
}

std::string as_text(const storage::ImageSpec& spec) {
  std::string out;
  for (auto& [key, value] : spec.values()) {
    out += (out.empty() ? "" : ",") + key + "=";
    for (char c : value) out += c == ',' ? std::string(",,") : std::string(1, c);
  }
  return out;
}

}  // namespace

Result<> reopen(Session& session, const img::OpenWish& asked, const img::OptionList& options) {
  img::OpenWish wish = asked;
  std::string name = session.name;
  const storage::ImageSpec before = TRY(opened_by(session));
  TRY_VOID(same_nodes(session, before, options));
  if (!options.empty()) {
    storage::ImageSpec spec = before;
    // One new word about overlap checks or the caches' sizes ends all old ones.
    auto drop = [&](std::initializer_list<const char*> names) {
      for (const char* one : names)
        if (std::ranges::any_of(options, [&](auto& option) { return option.first == one; }))
          for (const char* old : names) spec.take(old);
    };
    drop({"overlap-check", "overlap-check.template"});
    drop({"cache-size", "l2-cache-size", "refcount-cache-size"});
    for (auto& [key, value] : options) spec.set(key, value);
    TRY_VOID(storage::check_switches(spec));
    storage::ImageSpec copy = spec;
    if (auto* q = img::as_qcow2(*session.image)) {
      storage::qcow2::OpenConfig config;
      TRY_VOID(storage::take_qcow2_options(copy, q->header(), config));
    }
    for (const char* way : {"auto-read-only", "cache.direct", "cache.no-flush", "cache.writeback", "detect-zeroes", "discard", "driver", "force-share", "node-name", "read-only"}) copy.take(way);
    // What is left belongs to a node below, or was there before.
    for (auto& [key, value] : options)
      if (copy.get(key) && key.find('.') == std::string::npos && before.get(key) != value) return fixed(key);
    copy = spec;
    if (const auto read_only = TRY(copy.take_switch("read-only"))) wish.writable = !*read_only;
    const auto direct = TRY(copy.take_switch("cache.direct")), unsafe = TRY(copy.take_switch("cache.no-flush"));
    if (direct || unsafe) wish.cache = direct.value_or(false) ? "none" : unsafe.value_or(false) ? "unsafe" : "writeback";
    if (!wish.image_options && !storage::ImageSpec::is_json(name)) wish.name_beside_options = name;
    if (spec.get("driver")) wish.format.clear();
    wish.image_options = true;
    name = as_text(spec);
  }
  const std::string old_name = session.name;
  const img::OpenWish old = session.wish;
  TRY_VOID(close(session));
  auto opened = open(session, name, wish, session.temporary);
  if (!opened)
    if (auto back = open(session, old_name, old, session.temporary); !back) return back;
  return opened;
}

}  // namespace vireo::cli::io
