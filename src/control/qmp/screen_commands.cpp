// SPDX-License-Identifier: Apache-2.0
#include "control/qmp/dump_file.h"
#include "control/qmp/machine_commands.h"
#include "devices/vga/vga.h"
#include "machine/board.h"
#include "machine/machine.h"

namespace vireo::control::qmp {
namespace {

Outcome<const Vga*> screen_of(Machine& machine) {
  const Vga* vga = machine.board().vga();
  if (!vga) return refuse("no screen: the machine was started without --vga");
  return vga;
}

}  // namespace

void add_screen_commands(Server& server, Machine& machine) {
  server.add("screendump", [&machine](Arguments& arguments) -> Answer {
    const std::string path = QMP_TRY(arguments.text("filename"));
    const bool as_text = QMP_TRY(arguments.is("format", {"ppm", "text"}, "ppm", "text"));
    QMP_TRY(arguments.end());
    const Vga* vga = QMP_TRY(screen_of(machine));
    std::string out;
    if (as_text) {
      auto text = vga->text();
      if (!text) return refuse("the screen is in no text mode");
      for (unsigned row = 0; row < text->rows; row++) out += text->line(row) + "\n";
    } else {
      out = vga->pixels().ppm();
    }
    QMP_TRY(write_dump(path, out));
    return Json::object();
  });
  server.add("x-query-screen", [&machine](Arguments& arguments) -> Answer {
    QMP_TRY(arguments.end());
    const Vga* vga = QMP_TRY(screen_of(machine));
    auto text = vga->text();
    if (!text) {
      PixelScreen pixels = vga->pixels();
      return Json{{"mode", "graphics"}, {"width", pixels.width}, {"height", pixels.height}};
    }
    Json lines = Json::array();
    for (unsigned row = 0; row < text->rows; row++) lines.push_back(text->line(row));
    Json answer{{"mode", "text"}, {"columns", text->columns}, {"rows", text->rows}, {"text", std::move(lines)}};
    if (text->cursor) answer["cursor"] = {{"column", text->cursor->column}, {"row", text->cursor->row}};
    return answer;
  });
}

}  // namespace vireo::control::qmp
