// SPDX-License-Identifier: Apache-2.0
// The program: finds the command and turns errors into one line and exit status 1.
#include <cstdio>
#include <string>

#include "cli/help.h"
#include "cli/img/img.h"
#include "cli/io/session.h"
#include "cli/kvm_command.h"
#include "cli/nbd/nbd.h"
#include "cli/options.h"
#include "cli/run.h"

namespace {

int report(const vireo::Error& error) {
  fprintf(stderr, "vireo: %s\n", error.message.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::string self = argc > 0 ? argv[0] : "";
  self = self.substr(self.rfind('/') + 1);
  if (self == "qemu-img") return vireo::cli::img::run(argc, argv);
  if (self == "qemu-nbd") return vireo::cli::nbd::run(argc, argv);
  if (self == "qemu-io") return vireo::cli::io::run(argc, argv);
  std::string command = argc > 1 ? argv[1] : "";
  if (command == "--version" || command == "-V") {
    printf("vireo %s\n", VIREO_VERSION);
    return 0;
  }
  if (command == "--help" || command == "-h" || command == "help") {
    vireo::cli::print_help();
    return 0;
  }
  if (command == "kvm") {
    auto status = vireo::cli::run_with_softkvm(argc - 2, argv + 2);
    return status ? *status : report(status.error());
  }
  if (command == "img") {
    char name[] = "vireo img";
    argv[1] = name;
    return vireo::cli::img::run(argc - 1, argv + 1);
  }
  if (command == "nbd") {
    char name[] = "vireo nbd";
    argv[1] = name;
    return vireo::cli::nbd::run(argc - 1, argv + 1);
  }
  if (command == "io") {
    char name[] = "vireo io";
    argv[1] = name;
    return vireo::cli::io::run(argc - 1, argv + 1);
  }
  if (command != "run") {
    fprintf(stderr, "vireo: %s (see vireo --help)\n", command.empty() ? "a command is missing" : ("unknown command " + command).c_str());
    return 1;
  }
  auto options = vireo::cli::parse_run(argc - 2, argv + 2);
  if (!options) return report(options.error());
  if (!*options) return 0;
  auto status = vireo::cli::run(**options);
  if (!status) return report(status.error());
  return *status;
}
