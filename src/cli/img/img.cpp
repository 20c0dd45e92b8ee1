// SPDX-License-Identifier: Apache-2.0
#include "cli/img/img.h"
#include "base/log.h"
#include "cli/standard_files.h"

#include <cstdio>
#include <cstring>

#ifndef VIREO_VERSION
#define VIREO_VERSION "?"
#endif

namespace vireo::cli::img {
namespace {

struct Entry {
  const char* name;
  Command command;
  const char* usage;
};
constexpr Entry kCommands[] = {
    {"amend", amend, "[-f fmt] [-t cache] [-p] [-q] [--force] -o options filename"},
    {"bench", bench, "[-c count] [-d depth] [-f fmt] [--flush-interval=n] [-o offset] [--pattern=n] [-q] [-s size] [-S step] [-t cache] [-w] [-U] filename"},
    {"bitmap", bitmap, "(--merge source | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F source_fmt]] [-g granularity] [-f fmt] filename bitmap"},
    {"check", check, "[-f fmt] [--output=human|json] [-r leaks|all] [-T cache] [-q] [-U] filename"},
    {"commit", commit, "[-f fmt] [-t cache] [-b base] [-d] [-p] [-q] filename"},
    {"compare", compare, "[-f fmt] [-F fmt] [-T cache] [-p] [-q] [-s] [-U] filename1 filename2"},
    {"convert", convert, "[-f fmt] [-O fmt] [-B backing [-F fmt]] [-o options] [-l snapshot] [-S size] [-t cache] [-T cache] [-m n] [-W] [-c] [-n] [-p] [-q] [-U] [--target-is-zero] [--bitmaps [--skip-broken-bitmaps]] filename [...] output"},
    {"create", create, "[-f fmt] [-b backing [-F fmt]] [-u] [-o options] [-q] filename [size]"},
    {"dd", dd, "[-f fmt] [-O fmt] [-U] [bs=size] [count=n] [skip=n] if=input of=output"},
    {"info", info, "[-f fmt] [--output=human|json] [--backing-chain] [-U] filename"},
    {"map", map, "[-f fmt] [--start-offset=n] [--max-length=n] [--output=human|json] [-U] filename"},
    {"measure", measure, "[--output=human|json] [-O fmt] [-o options] [--size n | [-f fmt] [-l snapshot] filename]"},
    {"rebase", rebase, "[-f fmt] [-t cache] [-T cache] [-p] [-q] [-u] [-U] -b backing [-F fmt] filename"},
    {"resize", resize, "[-f fmt] [--preallocation=mode] [--shrink] [-q] filename [+|-]size"},
    {"snapshot", snapshot, "[-f fmt] [-q] [-U] [-l | -a snapshot | -c snapshot | -d snapshot] filename"},
};
// What scripts ask qemu-img for: the version whose words this tool speaks.
constexpr char kSpeaks[] = "7.2.22";

void help() {
  printf("qemu-img version %s (Vireo %s)\nusage: qemu-img [standard options] command [command options]\n\n"
         "    '-h', '--help'       display this help and exit\n    '-V', '--version'    output version information and exit\n\n"
         "Command syntax:\n", kSpeaks, VIREO_VERSION);
  for (const Entry& e : kCommands) printf("  %s %s\n", e.name, e.usage);
  printf("\nSupported formats: luks qcow2 raw\n");
}

}  // namespace

int run(int argc, char** argv) {
  set_log_prefix("");  // what the formats say begins with their names, as scripts know it
  const char* slash = strrchr(argv[0], '/');
  std::string self = slash ? slash + 1 : argv[0];
  // \1 in a message begins a line as its first one.
  auto say = [&](std::string text) {
    for (size_t at; (at = text.find('\1')) != std::string::npos;) text.replace(at, 1, self + ": ");
    fprintf(stderr, "%s: %s\n", self.c_str(), text.c_str());
  };
  std::string word = argc > 1 ? argv[1] : "";
  if (word.empty()) {
    say("Not enough arguments\nTry '" + self + " --help' for more information");
    return 1;
  }
  if (word == "--help" || word == "-h") return help(), 0;
  if (word == "--version" || word == "-V") {
    printf("qemu-img version %s (Vireo %s)\n", kSpeaks, VIREO_VERSION);
    return 0;
  }
  for (const Entry& e : kCommands) {
    if (word != e.name) continue;
    // Anywhere among its words, as QEMU's tool has it; but not behind --, where names are.
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; ++i) {
      if (strcmp(argv[i], "--help") != 0 && (i > 2 || strcmp(argv[i], "-h") != 0)) continue;
      printf("usage: %s %s %s\n", self.c_str(), e.name, e.usage);
      return 0;
    }
    argv[1] = self.data();  // what messages begin with, getopt(3)'s as well
    auto status = e.command(argc - 1, argv + 1);
    flush_output();
    if (status) return *status;
    if (!status.error().message.empty()) say(status.error().message);
    return 1;
  }
  say("Command not found: " + word + "\nTry '" + self + " --help' for more information");
  return 1;
}

}  // namespace vireo::cli::img
