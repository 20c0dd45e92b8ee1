// SPDX-License-Identifier: Apache-2.0
// A command's arguments, taken by name and type; what is left at the end was not expected. Messages are QEMU's.
#pragma once

#include <initializer_list>

#include "control/qmp/message.h"

namespace vireo::control::qmp {

class Arguments {
 public:
  explicit Arguments(Json arguments) : left_(std::move(arguments)) {}

  Outcome<std::string> text(const char* name);
  Outcome<std::optional<std::string>> maybe_text(const char* name);
  Outcome<std::string> word(const char* name, std::initializer_list<const char*> choices, const char* otherwise);  // null: needed
  // Whether the word is `wanted`, of those.
  Outcome<bool> is(const char* name, std::initializer_list<const char*> choices, const char* otherwise, const char* wanted);
  Outcome<int64_t> integer(const char* name);
  Outcome<std::optional<int64_t>> maybe_integer(const char* name);
  Outcome<uint64_t> size(const char* name);  // not negative
  Outcome<uint64_t> size_or(const char* name, uint64_t otherwise);  // not negative
  Outcome<bool> flag(const char* name, bool otherwise);
  Outcome<Json> list(const char* name);
  Outcome<std::optional<Json>> maybe_object(const char* name);
  std::optional<Json> take(const char* name);
  bool has(const char* name) const { return left_.contains(name); }
  // Refuses what nobody took.
  Outcome<bool> end();

 private:
  Json left_;
};

}  // namespace vireo::control::qmp
