// SPDX-License-Identifier: Apache-2.0
#include "control/qmp/message.h"

#include <ctime>

namespace vireo::control::qmp {

Outcome<Command> parse_command(const std::string& text, std::optional<Json>& id) {
  Json value = Json::parse(text, nullptr, false);
  if (value.is_discarded()) return refuse("JSON parse error, invalid syntax");
  if (!value.is_object()) return refuse("QMP input must be a JSON object");
  if (auto found = value.find("id"); found != value.end()) id = *found;
  Command command;
  command.id = id;
  bool named = false;
  for (auto& [key, member] : value.items()) {
    if (key == "execute") {
      if (!member.is_string()) return refuse("QMP input member 'execute' must be a string");
      command.name = member.get<std::string>();
      named = true;
    } else if (key == "arguments") {
      if (!member.is_object()) return refuse("QMP input member 'arguments' must be an object");
      command.arguments = member;
    } else if (key == "exec-oob") {
      return refuse("QMP input member 'exec-oob' is unexpected: out-of-band execution is not offered");
    } else if (key != "id") {
      return refuse("QMP input member '" + key + "' is unexpected");
    }
  }
  if (!named) return refuse("QMP input lacks member 'execute'");
  return command;
}

std::string write(const Json& value) { return value.dump(-1, ' ', true, Json::error_handler_t::replace); }

Json version(const std::string& package) {
  // The protocol's commands are those of this QEMU; who answers stands beside.
  return {{"qemu", {{"major", 7}, {"minor", 2}, {"micro", 0}}}, {"package", package}};
}

std::string greeting(const std::string& package) { return write({{"QMP", {{"version", version(package)}, {"capabilities", Json::array()}}}}); }

std::string write_answer(const Answer& answer, const std::optional<Json>& id) {
  Json out = Json::object();
  if (answer) out["return"] = *answer;
  else out["error"] = {{"class", answer.error().kind}, {"desc", answer.error().text}};
  if (id) out["id"] = *id;
  return write(out);
}

std::string write_event(const std::string& name, const Json& data) {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  Json out = {{"event", name}, {"timestamp", {{"seconds", now.tv_sec}, {"microseconds", now.tv_nsec / 1000}}}};
  if (!data.is_null()) out["data"] = data;
  return write(out);
}

}  // namespace vireo::control::qmp
