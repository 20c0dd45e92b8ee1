// SPDX-License-Identifier: Apache-2.0
// The program: finds the command and turns errors into one line and exit status 1.
#include <cstdio>
#include <string>

#include "cli/ctl/ctl.h"
#include "cli/help.h"
#include "cli/img/img.h"
#include "cli/io/session.h"
#include "cli/kvm_command.h"
#include "cli/nbd/nbd.h"
#include "cli/options.h"
#include "cli/run.h"
#include "cli/standard_files.h"
#include "cli/stat/stat.h"

namespace {

int report(const vireo::Error& error) {
  fprintf(stderr, "vireo: %s\n", error.message.c_str());
  return 1;
}

vireo::Result<int> run_machine(int argc, char** argv) {
  auto options = TRY(vireo::cli::parse_run(argc, argv));
  return options ? vireo::cli::run(*options) : 0;
}

// What the words after the command go to.
struct Command {
  const char* name;
  vireo::Result<int> (*run)(int argc, char** argv);
};
constexpr Command kCommands[] = {{"run", run_machine}, {"kvm", vireo::cli::run_with_softkvm}, {"stat", vireo::cli::stat::run},
                                  {"ctl", vireo::cli::ctl::run}};

// Tools that take a whole command line, errors told by themselves: as commands, and by the names that scripts know.
struct Tool {
  const char* name;
  const char* command;
  const char* alias;
  int (*run)(int argc, char** argv);
};
constexpr Tool kTools[] = {{"vireo img", "img", "qemu-img", vireo::cli::img::run},
                           {"vireo nbd", "nbd", "qemu-nbd", vireo::cli::nbd::run},
                           {"vireo io", "io", "qemu-io", vireo::cli::io::run}};

int command_line(int argc, char** argv) {
  std::string self = argc > 0 ? argv[0] : "";
  self = self.substr(self.rfind('/') + 1);
  for (const Tool& tool : kTools)
    if (self == tool.alias) return tool.run(argc, argv);
  std::string command = argc > 1 ? argv[1] : "";
  if (command == "--version" || command == "-V") {
    printf("vireo %s\n", VIREO_VERSION);
    return 0;
  }
  if (command == "--help" || command == "-h" || command == "help") {
    vireo::cli::print_help();
    return 0;
  }
  for (const Command& known : kCommands) {
    if (command != known.name) continue;
    auto status = known.run(argc - 2, argv + 2);
    return status ? *status : report(status.error());
  }
  for (const Tool& tool : kTools) {
    if (command != tool.command) continue;
    std::string name = tool.name;
    argv[1] = name.data();
    return tool.run(argc - 1, argv + 1);
  }
  fprintf(stderr, "vireo: %s (see vireo --help)\n", command.empty() ? "a command is missing" : ("unknown command " + command).c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  vireo::cli::keep_standard_files();
  return vireo::cli::finish_output(command_line(argc, argv));
}
