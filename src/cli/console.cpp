// SPDX-License-Identifier: Apache-2.0
#include "cli/console.h"

namespace vireo::cli {
namespace {

constexpr char kEscape = 1;  // Ctrl-A
constexpr char kKeys[] =
    "\r\nCtrl-A h  this help\r\nCtrl-A x  end the machine\r\nCtrl-A c  prompt on and off\r\nCtrl-A Ctrl-A  send Ctrl-A\r\n";
constexpr char kPrompt[] = "(vireo) ";

}  // namespace

Console::Console(Machine& machine, CharFd& terminal) : machine_(machine), terminal_(terminal) {
  terminal.set_filter([this](std::string bytes) { return filter(std::move(bytes)); });
}

std::string Console::filter(std::string bytes) {
  std::string pass;
  for (char byte : bytes) {
    if (escaped_) {
      escaped_ = false;
      switch (byte) {
        case 'x': machine_.request_end(0); break;
        case 'h': terminal_.print(kKeys); break;
        case 'c':
          prompt_ = !prompt_;
          terminal_.print(prompt_ ? "\r\nhelp lists the commands, Ctrl-A c leads back\r\n" + std::string(kPrompt) : "\r\n");
          line_.clear();
          break;
        case kEscape: pass += kEscape; break;
        default: break;
      }
    } else if (byte == kEscape) {
      escaped_ = true;
    } else if (prompt_) {
      prompt_byte(byte);
    } else {
      pass += byte;
    }
  }
  return pass;
}

void Console::prompt_byte(char byte) {
  if (byte == '\r' || byte == '\n') {
    terminal_.print("\r\n");
    execute(std::exchange(line_, ""));
    if (prompt_) terminal_.print(kPrompt);
  } else if ((byte == 0x7f || byte == '\b') && !line_.empty()) {
    line_.pop_back();
    terminal_.print("\b \b");
  } else if (byte >= ' ' && line_.size() < 200) {
    line_ += byte;
    terminal_.print(std::string(1, byte));
  }
}

void Console::execute(const std::string& line) {
  if (line.empty()) return;
  if (line == "help") {
    terminal_.print("info  quit  reset  poweroff  pause  resume\r\n");
  } else if (line == "info") {
    terminal_.print(std::string(machine_.running() ? "running" : "paused") + ", " + std::to_string(machine_.config().cpus) + " vCPUs, " +
                    std::to_string(machine_.config().memory.size >> 20) + " MiB, " + std::string(machine_.vm().api().name) + ", " +
                    std::to_string(machine_.exits()) + " exits\r\n");
  } else if (line == "quit") {
    machine_.request_end(0);
  } else if (line == "reset") {
    machine_.request_reset();
  } else if (line == "poweroff") {
    machine_.press_power_button();
  } else if (line == "pause") {
    machine_.pause();
  } else if (line == "resume") {
    machine_.resume();
  } else {
    terminal_.print("unknown command; help lists them\r\n");
  }
}

}  // namespace vireo::cli
