// SPDX-License-Identifier: Apache-2.0
#include "storage/spec.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

namespace vireo::storage {
namespace {

using json = nlohmann::ordered_json;
constexpr size_t kDeepest = 64, kMost = 4096;  // levels, values

Result<> flatten(const json& from, const std::string& name, size_t depth, std::map<std::string, std::string>& out) {
  if (depth > kDeepest || out.size() > kMost) return fail(ErrorKind::kInvalid, "Could not parse the JSON options: there are too many", EINVAL);
  if (from.is_structured()) {
    size_t i = 0;
    for (auto& item : from.items()) {
      std::string key = from.is_array() ? std::to_string(i++) : item.key();
      TRY_VOID(flatten(item.value(), name.empty() ? key : name + "." + key, depth + 1, out));
    }
  } else {
    // A key may have dots of its own, which are levels as well.
    if (static_cast<size_t>(std::ranges::count(name, '.')) >= kDeepest) return fail(ErrorKind::kInvalid, "Could not parse the JSON options: too many levels", EINVAL);
    out[name] = from.is_string() ? from.get<std::string>() : from.dump();
  }
  return {};
}

// JSON has double quotes only; in QEMU's dialect single ones do as well.
std::string with_double_quotes(const std::string& text) {
  std::string out;
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (quote && c == '\\' && i + 1 < text.size()) {
      if (text[i + 1] == '\'') out += '\'';
      else out += c, out += text[i + 1];
      ++i;
    } else if (quote ? c == quote : c == '\'' || c == '"') {
      quote = quote ? 0 : c;
      out += '"';
    } else if (quote == '\'' && c == '"') {
      out += "\\\"";
    } else {
      out += c;
    }
  }
  return out;
}

bool is_number(const std::string& text) { return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos && text.size() < 6; }

}  // namespace

ImageSpec::ImageSpec(const std::vector<std::pair<std::string, std::string>>& options) {
  for (auto& [name, value] : options) values_[name] = value;
}

Result<ImageSpec> ImageSpec::from_json(const std::string& text) {
  auto tree = json::parse(with_double_quotes(text.substr(5)), nullptr, false);
  if (tree.is_discarded() || !tree.is_object()) return fail(ErrorKind::kInvalid, "Could not parse the JSON options", EINVAL);
  ImageSpec out;
  TRY_VOID(flatten(tree, "", 0, out.values_));
  return out;
}

std::optional<std::string> ImageSpec::get(const std::string& name) const {
  auto found = values_.find(name);
  return found == values_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::string> ImageSpec::take(const std::string& name) {
  auto found = values_.find(name);
  if (found == values_.end()) return std::nullopt;
  std::string value = std::move(found->second);
  values_.erase(found);
  return value;
}

Result<std::optional<bool>> ImageSpec::take_switch(const std::string& name) {
  auto value = take(name);
  if (!value) return std::nullopt;
  if (*value == "on" || *value == "true" || *value == "yes") return true;
  if (*value == "off" || *value == "false" || *value == "no") return false;
  return fail(ErrorKind::kInvalid, "Parameter '" + name + "' expects 'on' or 'off'", EINVAL);
}

Result<std::optional<uint64_t>> ImageSpec::take_size(const std::string& name) {
  auto value = take(name);
  if (!value) return std::nullopt;
  char* end;
  errno = 0;
  unsigned long long number = strtoull(value->c_str(), &end, 10);
  long double fraction = 0;
  const bool parts = *end == '.' && isdigit(static_cast<unsigned char>(end[1]));
  if (parts) {
    fraction = strtold(std::string(end, strspn(end, ".0123456789")).c_str(), nullptr);
    end += 1 + strspn(end + 1, "0123456789");
  }
  constexpr char kUnits[] = "KMGTPE";
  const char* unit = *end && end != value->c_str() ? strchr(kUnits, toupper(static_cast<unsigned char>(*end))) : nullptr;
  const unsigned shift = unit ? static_cast<unsigned>(unit - kUnits + 1) * 10 : 0;
  if (unit) ++end;
  if (value->empty() || (*value)[0] == '-' || *end || errno || (parts && !unit) || (shift && number >> (64 - shift)))
    return fail(ErrorKind::kInvalid, "Parameter '" + name + "' expects a non-negative number below 2^64", EINVAL);
  return (number << shift) + static_cast<uint64_t>(fraction * static_cast<long double>(1ull << shift));
}

ImageSpec ImageSpec::take_part(const std::string& name) {
  ImageSpec out;
  const std::string start = name + ".";
  for (auto at = values_.lower_bound(start); at != values_.end() && at->first.starts_with(start); at = values_.erase(at))
    out.values_[at->first.substr(start.size())] = std::move(at->second);
  return out;
}

std::vector<ImageSpec> ImageSpec::take_list(const std::string& name) {
  std::vector<ImageSpec> out;
  for (;;) {
    ImageSpec next = take_part(name + "." + std::to_string(out.size()));
    if (next.empty()) return out;
    out.push_back(std::move(next));
  }
}

void ImageSpec::put_part(const std::string& name, const ImageSpec& part) {
  for (auto& [key, value] : part.values_) values_[name + "." + key] = value;
}

std::string ImageSpec::json() const {
  nlohmann::ordered_json tree = nlohmann::ordered_json::object();
  for (auto& [name, value] : values_) {
    auto* at = &tree;
    std::string rest = name;
    for (size_t dot; (dot = rest.find('.')) != std::string::npos; rest.erase(0, dot + 1)) {
      const std::string key = rest.substr(0, dot);
      auto* next = at->is_array() ? (is_number(key) && std::stoul(key) <= at->size() ? &(*at)[std::stoul(key)] : nullptr) : &(*at)[key];
      if (!next) break;
      const std::string after = rest.substr(dot + 1, rest.find('.', dot + 1) - dot - 1);
      if (next->is_null()) *next = after == "0" ? nlohmann::ordered_json::array() : nlohmann::ordered_json::object();
      if (!next->is_structured()) break;
      at = next;
    }
    if (at->is_object()) (*at)[rest] = value;
    else if (is_number(rest) && std::stoul(rest) <= at->size()) (*at)[std::stoul(rest)] = value;
  }
  return "json:" + tree.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace vireo::storage
