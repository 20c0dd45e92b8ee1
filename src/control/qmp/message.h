// SPDX-License-Identifier: Apache-2.0
// The messages of QMP: commands in; answers, errors and events out. Spec: QEMU's docs/interop/qmp-spec.
#pragma once

#include <expected>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/result.h"

namespace vireo::control::qmp {

using Json = nlohmann::json;

struct QmpError {
  std::string kind = "GenericError";  // CommandNotFound, DeviceNotFound, DeviceNotActive ...
  std::string text;
};
inline std::unexpected<QmpError> refuse(std::string text, std::string kind = "GenericError") {
  return std::unexpected(QmpError{std::move(kind), std::move(text)});
}
inline std::unexpected<QmpError> refuse(const Error& error) {
  return refuse(error.message);
}
template <class T>
using Outcome = std::expected<T, QmpError>;
using Answer = Outcome<Json>;

struct Command {
  std::string name;
  Json arguments = Json::object();
  std::optional<Json> id;
};
// `id` is set, where there is one, in a refused command too.
Outcome<Command> parse_command(const std::string& text, std::optional<Json>& id);

// One line each, without the end of line.
std::string greeting(const std::string& package);
std::string write_answer(const Answer& answer, const std::optional<Json>& id);
std::string write_event(const std::string& name, const Json& data);
std::string write(const Json& value);
Json version(const std::string& package);

}  // namespace vireo::control::qmp

// Evaluates an Outcome<T>; on an error returns it from the enclosing function, else yields the T.
#define QMP_TRY(expression)                                                  \
  ({                                                                         \
    auto try_outcome_ = (expression);                                        \
    if (!try_outcome_) return std::unexpected(std::move(try_outcome_).error()); \
    std::move(try_outcome_).value();                                         \
  })
// The same for a Result of the layers below.
#define QMP_TAKE(expression)                                                 \
  ({                                                                         \
    auto try_outcome_ = (expression);                                        \
    if (!try_outcome_) return ::vireo::control::qmp::refuse(try_outcome_.error()); \
    std::move(try_outcome_).value();                                         \
  })
#define QMP_DO(expression)                                                   \
  do {                                                                       \
    auto try_outcome_ = (expression);                                        \
    if (!try_outcome_) return ::vireo::control::qmp::refuse(try_outcome_.error()); \
  } while (0)
