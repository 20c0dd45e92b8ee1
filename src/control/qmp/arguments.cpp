// SPDX-License-Identifier: Apache-2.0
#include "control/qmp/arguments.h"

namespace vireo::control::qmp {
namespace {

std::unexpected<QmpError> missing(const char* name) { return refuse(std::string("Parameter '") + name + "' is missing"); }
std::unexpected<QmpError> wrong(const char* name, const char* type) { return refuse(std::string("Invalid parameter type for '") + name + "', expected: " + type); }

}  // namespace

std::optional<Json> Arguments::take(const char* name) {
  auto found = left_.find(name);
  if (found == left_.end()) return {};
  Json value = std::move(*found);
  left_.erase(found);
  return value;
}

Outcome<std::optional<std::string>> Arguments::maybe_text(const char* name) {
  auto value = take(name);
  if (!value) return std::nullopt;
  if (!value->is_string()) return wrong(name, "string");
  std::string text = value->get<std::string>();
  if (text.find('\0') != std::string::npos) return refuse(std::string("Parameter '") + name + "' has a zero byte in it");
  return text;
}

Outcome<std::string> Arguments::text(const char* name) {
  auto value = QMP_TRY(maybe_text(name));
  if (!value) return missing(name);
  return *value;
}

Outcome<std::string> Arguments::word(const char* name, std::initializer_list<const char*> choices, const char* otherwise) {
  auto value = QMP_TRY(maybe_text(name));
  if (!value && !otherwise) return missing(name);
  if (!value) return std::string(otherwise);
  for (const char* choice : choices)
    if (*value == choice) return *value;
  return refuse(std::string("Parameter '") + name + "' does not accept value '" + *value + "'");
}

Outcome<bool> Arguments::is(const char* name, std::initializer_list<const char*> choices, const char* otherwise, const char* wanted) {
  const std::string given = QMP_TRY(word(name, choices, otherwise));
  return given.compare(wanted) == 0;
}

Outcome<std::optional<int64_t>> Arguments::maybe_integer(const char* name) {
  auto value = take(name);
  if (!value) return std::nullopt;
  if (!value->is_number_integer()) return wrong(name, "integer");
  if (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) return wrong(name, "integer");
  return value->get<int64_t>();
}

Outcome<int64_t> Arguments::integer(const char* name) {
  auto value = QMP_TRY(maybe_integer(name));
  if (!value) return missing(name);
  return *value;
}

Outcome<uint64_t> Arguments::size_or(const char* name, uint64_t otherwise) {
  auto value = QMP_TRY(maybe_integer(name));
  if (!value) return otherwise;
  if (*value < 0) return refuse(std::string("Parameter '") + name + "' expects a number that is not negative");
  return static_cast<uint64_t>(*value);
}

Outcome<uint64_t> Arguments::size(const char* name) {
  if (!has(name)) return missing(name);
  return size_or(name, 0);
}

Outcome<bool> Arguments::flag(const char* name, bool otherwise) {
  auto value = take(name);
  if (!value) return otherwise;
  if (!value->is_boolean()) return wrong(name, "boolean");
  return value->get<bool>();
}

Outcome<Json> Arguments::list(const char* name) {
  auto value = take(name);
  if (!value) return missing(name);
  if (!value->is_array()) return wrong(name, "array");
  return *value;
}

Outcome<std::optional<Json>> Arguments::maybe_object(const char* name) {
  auto value = take(name);
  if (!value) return std::nullopt;
  if (!value->is_object()) return wrong(name, "object");
  return value;
}

Outcome<bool> Arguments::end() {
  if (left_.empty()) return true;
  return refuse("Parameter '" + left_.begin().key() + "' is unexpected");
}

}  // namespace vireo::control::qmp
