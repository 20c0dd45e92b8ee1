// SPDX-License-Identifier: Apache-2.0
// What may come over a control socket: framing, parsing and arguments. The same bytes in one piece and in many are the same values.
#include <cstdint>
#include <cstdlib>

#include "control/qmp/arguments.h"
#include "control/qmp/framer.h"

using namespace vireo::control::qmp;

namespace {

std::vector<std::string> values(std::string_view bytes, size_t piece) {
  Framer framer;
  std::vector<std::string> out;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    framer.add(bytes.substr(at, piece));
    for (;;) {
      auto value = framer.next();
      if (!value) return out;  // how much of the rest is forgotten depends on the pieces
      if (!*value) break;
      out.push_back(**value);
    }
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto whole = values(bytes, std::max<size_t>(size, 1));
  if (whole != values(bytes, 1) || whole != values(bytes, 7)) abort();
  for (const std::string& text : whole) {
    std::optional<Json> id;
    auto command = parse_command(text, id);
    (void)write_answer(command ? Answer(command->arguments) : Answer(std::unexpected(command.error())), id);
    if (!command) continue;
    Arguments arguments(command->arguments);
    (void)arguments.text("device");
    (void)arguments.integer("speed");
    (void)arguments.flag("force", false);
    (void)arguments.list("actions");
    (void)arguments.end();
  }
  return 0;
}
