// SPDX-License-Identifier: Apache-2.0
#include "storage/file/blkdebug_rules.h"

#include <algorithm>
#include <fstream>

#include "storage/file/blkdebug_file.h"

namespace vireo::storage {
namespace {

// QEMU's names. Which of them this project's formats tell of is seen by File::event().
constexpr std::string_view kEvents[] = {
    "l1_update", "l1_grow_alloc_table", "l1_grow_write_table", "l1_grow_activate_table", "l2_load", "l2_update", "l2_update_compressed",
    "l2_alloc_cow_read", "l2_alloc_write", "read_aio", "read_backing_aio", "read_compressed", "write_aio", "write_compressed", "vmstate_load",
    "vmstate_save", "cow_read", "cow_write", "reftable_load", "reftable_grow", "reftable_update", "refblock_load", "refblock_update",
    "refblock_update_part", "refblock_alloc", "refblock_alloc_hookup", "refblock_alloc_write", "refblock_alloc_write_blocks",
    "refblock_alloc_write_table", "refblock_alloc_switch_table", "cluster_alloc", "cluster_alloc_bytes", "cluster_free", "flush_to_os",
    "flush_to_disk", "pwritev_rmw_head", "pwritev_rmw_after_head", "pwritev_rmw_tail", "pwritev_rmw_after_tail", "pwritev", "pwritev_zero",
    "pwritev_done", "empty_image_prepare", "l1_shrink_write_table", "l1_shrink_free_l2_clusters", "cor_write", "cluster_alloc_space", "none"};
constexpr std::pair<std::string_view, IoType> kTypes[] = {{"read", IoType::kRead}, {"write", IoType::kWrite}, {"write-zeroes", IoType::kWriteZeroes},
                                                          {"discard", IoType::kDiscard}, {"flush", IoType::kFlush}, {"block-status", IoType::kBlockStatus}};

std::unexpected<Error> bad(const std::string& why) { return fail(ErrorKind::kInvalid, why, EINVAL); }

Result<std::string> take_event(ImageSpec& one) {
  auto event = one.take("event");
  if (!event) return bad("Missing event name for rule");
  if (std::ranges::find(kEvents, *event) == std::end(kEvents)) return bad("Invalid event name \"" + *event + "\"");
  return *event;
}

Result<> nothing_left(const ImageSpec& one) {
  if (one.empty()) return {};
  return bad("Invalid parameter '" + one.values().begin()->first + "'");
}

}  // namespace

Result<> BlkdebugRules::add_inject(ImageSpec& one) {
  Inject rule{.event = TRY(take_event(one)), .offset = {}};
  if (auto n = TRY(one.take_size("state"))) rule.state = static_cast<int>(*n);
  if (auto n = TRY(one.take_size("errno"))) rule.error = static_cast<int>(std::min<uint64_t>(*n, 4095));
  if (auto text = one.take("sector"); text && *text != "-1") {
    one.set("sector", *text);
    auto n = *TRY(one.take_size("sector"));
    if (n > INT64_MAX / 512) return bad("Sector number must be below 2^54");
    rule.offset = n * 512;
  }
  if (auto type = one.take("iotype")) {
    auto known = std::ranges::find(kTypes, *type, [](auto& t) { return t.first; });
    if (known == std::end(kTypes)) return bad("Invalid iotype \"" + *type + "\"");
    rule.types = static_cast<unsigned>(known->second);
  }
  if (auto once = TRY(one.take_switch("once"))) rule.once = *once;
  TRY(one.take_switch("immediately"));  // there is no event loop that an error could come back to earlier or later
  TRY_VOID(nothing_left(one));
  if (rule.event == "none") active_.push_back(injects_.size());
  injects_.push_back(std::move(rule));
  return {};
}

Result<> BlkdebugRules::add_set_state(ImageSpec& one) {
  SetState rule{.event = TRY(take_event(one))};
  if (auto n = TRY(one.take_size("state"))) rule.state = static_cast<int>(*n);
  if (auto n = TRY(one.take_size("new_state"))) rule.next = static_cast<int>(*n);
  TRY_VOID(nothing_left(one));
  changes_.push_back(std::move(rule));
  return {};
}

// [inject-error] or [set-state], then lines of name = "value".
Result<> BlkdebugRules::read_config(const std::string& path) {
  std::ifstream in(path);
  if (!in) return fail_errno("Could not read blkdebug config file: Could not open '" + path + "'");
  std::string section, line;
  ImageSpec one;
  auto finish = [&]() -> Result<> {
    if (section == "inject-error") TRY_VOID(add_inject(one));
    if (section == "set-state") TRY_VOID(add_set_state(one));
    one = {};
    return {};
  };
  for (unsigned number = 1; std::getline(in, line); ++number) {
    line.erase(0, std::min(line.find_first_not_of(" \t\r"), line.size()));
    line.erase(std::min(line.find_last_not_of(" \t\r") + 1, line.size()));
    if (line.empty() || line[0] == '#') continue;
    if (line.front() == '[' && line.back() == ']') {
      TRY_VOID(finish());
      section = line.substr(1, line.size() - 2);
      if (section != "inject-error" && section != "set-state") return bad(path + ":" + std::to_string(number) + ": There is no option group '" + section + "'");
      continue;
    }
    size_t equal = line.find('='), from = line.find('"', equal == std::string::npos ? 0 : equal), to = line.rfind('"');
    if (equal == std::string::npos || from == std::string::npos || to <= from || section.empty())
      return bad(path + ":" + std::to_string(number) + ": parse error");
    std::string name = line.substr(0, line.find_last_not_of(" \t", equal - 1) + 1);
    one.set(name, line.substr(from + 1, to - from - 1));
  }
  return finish();
}

Result<> BlkdebugRules::take(ImageSpec& spec, bool files) {
  if (auto config = spec.take("config")) {
    if (!files) return bad("blkdebug: a config file is not read for a backing file");
    TRY_VOID(read_config(*config));
  }
  for (ImageSpec& one : spec.take_list("inject-error")) TRY_VOID(add_inject(one));
  for (ImageSpec& one : spec.take_list("set-state")) TRY_VOID(add_set_state(one));
  return {};
}

void BlkdebugRules::event(std::string_view name) {
  std::unique_lock lock(mutex_);
  const int state = state_;
  bool first = true;
  for (size_t i = 0; i < injects_.size(); ++i) {
    const Inject& rule = injects_[i];
    if (rule.event != name || (rule.state && rule.state != state)) continue;
    if (first) active_.clear();  // those of an earlier event end
    first = false;
    active_.push_back(i);
  }
  for (const SetState& rule : changes_)
    if (rule.event == name && (!rule.state || rule.state == state)) state_ = rule.next;
  auto stop = std::ranges::find(breakpoints_, name, &Breakpoint::event);
  if (stop == breakpoints_.end()) return;
  const std::string tag = stop->tag;
  breakpoints_.erase(stop);
  waiting_.insert(tag);
  resumed_.wait(lock, [&] { return !waiting_.contains(tag); });
}

int BlkdebugRules::check(IoType type, uint64_t offset, uint64_t length) {
  std::lock_guard lock(mutex_);
  for (size_t k = 0; k < active_.size(); ++k) {
    const Inject& rule = injects_[active_[k]];
    if (!(rule.types & static_cast<unsigned>(type))) continue;
    if (rule.offset && (*rule.offset < offset || *rule.offset - offset >= length)) continue;
    const int error = rule.error;
    if (rule.once) {
      injects_[active_[k]].event.clear();  // never again
      active_.erase(active_.begin() + static_cast<ptrdiff_t>(k));
    }
    if (error) return error;
    return 0;
  }
  return 0;
}

Result<> BlkdebugRules::set_breakpoint(const std::string& event, const std::string& tag) {
  if (std::ranges::find(kEvents, event) == std::end(kEvents)) return fail(ErrorKind::kNotFound, "no such event", ENOENT);
  std::lock_guard lock(mutex_);
  breakpoints_.push_back({event, tag});
  return {};
}

bool BlkdebugRules::suspended(const std::string& tag) {
  std::lock_guard lock(mutex_);
  return waiting_.contains(tag);
}

Result<> BlkdebugRules::resume(const std::string& tag) {
  std::lock_guard lock(mutex_);
  if (!waiting_.erase(tag)) return fail(ErrorKind::kNotFound, "nobody waits there", ENOENT);
  resumed_.notify_all();
  return {};
}

Result<> BlkdebugRules::remove_breakpoint(const std::string& tag) {
  std::lock_guard lock(mutex_);
  bool any = std::erase_if(breakpoints_, [&](const Breakpoint& b) { return b.tag == tag; }) > 0;
  any |= waiting_.erase(tag) > 0;
  resumed_.notify_all();
  if (!any) return fail(ErrorKind::kNotFound, "no such breakpoint", ENOENT);
  return {};
}

BlkdebugRules* find_blkdebug(File& file) {
  auto* found = dynamic_cast<BlkdebugFile*>(&file);
  return found ? &found->rules() : nullptr;
}

}  // namespace vireo::storage
