// SPDX-License-Identifier: Apache-2.0
// `vireo io`: the program around the commands.
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "base/log.h"
#include "cli/img/secrets.h"
#include "cli/io/session.h"

#ifndef VIREO_VERSION
#define VIREO_VERSION "?"
#endif

namespace vireo::cli::io {
namespace {

void help(const char* self) {
  printf("usage: %s [-c command]... [-f format] [-r] [-n] [-t cache] [-d discard] [-i aio] [-U] [--image-opts] [file]\n\n"
         "Reads and writes an image by commands, from -c or, without, line by line from standard input.\n"
         "Exit status 1 when any of them failed. '%s -c help' lists the commands.\n\n"
         "  -c, --cmd COMMAND    do this; may be given again\n  -f, --format FORMAT  raw, qcow2; without, what the file begins with\n"
         "  -r, --read-only      the file is not written\n  -n, --nocache        the same as -t none\n"
         "  -t, --cache MODE     writeback, none, writethrough, directsync, unsafe\n  -U, --force-share    others may write the image meanwhile\n"
         "      --image-opts     file is a list of options: driver=qcow2,file.filename=...\n"
         "  -d, -i, -k, -m, -T   taken and not needed\n", self, self);
}

}  // namespace

Result<> open(Session& session, const std::string& name, const img::OpenWish& wish) {
  auto image = img::open(name, wish);
  if (!image) {
    // What is said twice there is said once here.
    Error error = std::move(image).error();
    const std::string start = "Could not open '" + name + "': ";
    if (error.message.starts_with(start + "Could not open ")) error.message.erase(0, start.size());
    return std::unexpected(std::move(error).within("can't open" + (name.empty() ? std::string() : " device " + name)));
  }
  session.image = std::move(*image);
  session.name = name;
  session.wish = wish;
  return {};
}

Result<> close(Session& session) {
  if (!session.image) return {};
  auto closed = session.image->close();
  session.image.reset();
  return closed;
}

int run(int argc, char** argv) {
  set_log_prefix("");
  Session session;
  session.wish.writable = true;
  std::vector<std::string> commands;
  std::string format;
  bool options = false;
  static const option kLong[] = {{"cmd", 1, nullptr, 'c'}, {"format", 1, nullptr, 'f'}, {"read-only", 0, nullptr, 'r'}, {"nocache", 0, nullptr, 'n'},
                                 {"cache", 1, nullptr, 't'}, {"discard", 1, nullptr, 'd'}, {"aio", 1, nullptr, 'i'}, {"native-aio", 0, nullptr, 'k'},
                                 {"misalign", 0, nullptr, 'm'}, {"trace", 1, nullptr, 'T'}, {"force-share", 0, nullptr, 'U'}, {"image-opts", 0, nullptr, 1},
                                 {"snapshot", 0, nullptr, 's'}, {"copy-on-read", 0, nullptr, 'C'}, {"object", 1, nullptr, 2}, {"help", 0, nullptr, 'h'},
                                 {"version", 0, nullptr, 'V'}, {}};
  optind = 0;
  for (int c; (c = getopt_long(argc, argv, "c:f:rnt:d:i:kmT:UsChV", kLong, nullptr)) >= 0;) {
    switch (c) {
      case 'c': commands.emplace_back(optarg); break;
      case 'f': format = optarg; break;
      case 'r': session.wish.writable = false; break;
      case 'n': session.wish.cache = "none"; break;
      case 't':
        session.wish.cache = optarg;
        if (!img::valid_cache(optarg)) return fprintf(stderr, "qemu-io: Invalid cache option: %s\n", optarg), 1;
        break;
      case 'U': session.wish.force_share = true; break;
      case 1: options = true; break;
      case 2:
        if (auto added = img::add_object(optarg); !added) return fprintf(stderr, "qemu-io: %s\n", added.error().message.c_str()), 1;
        break;
      case 's':
      case 'C': return fprintf(stderr, "qemu-io: --snapshot and --copy-on-read are not supported\n"), 1;
      case 'h': return help(argv[0]), 0;
      case 'V': return printf("qemu-io version 7.2.22 (Vireo %s)\n", VIREO_VERSION), 0;
      case '?': return fprintf(stderr, "Try '%s --help' for more information\n", argv[0]), 1;
      default: break;  // how QEMU goes about it
    }
  }
  if (argc - optind > 1) return help(argv[0]), 1;
  if (optind < argc) {
    img::OpenWish wish = session.wish;
    if (options && !format.empty()) return fprintf(stderr, "qemu-io: --image-opts and -f are mutually exclusive\n"), 1;
    wish.format = format;
    wish.image_options = options;
    if (auto opened = open(session, argv[optind], wish); !opened) return fprintf(stderr, "qemu-io: %s\n", opened.error().message.c_str()), 1;
  }
  bool good = true;
  for (const std::string& command : commands) {
    if (session.quit) break;
    good = execute(session, command) && good;
  }
  if (commands.empty()) {
    std::string line;
    while (!session.quit) {
      printf("qemu-io> ");
      fflush(stdout);
      if (!std::getline(std::cin, line)) break;
      good = execute(session, line) && good;
    }
  }
  if (auto closed = close(session); !closed) {
    fprintf(stderr, "qemu-io: %s\n", closed.error().message.c_str());
    good = false;
  }
  return good ? 0 : 1;
}

}  // namespace vireo::cli::io
