// SPDX-License-Identifier: Apache-2.0
// `vireo io`: the program around the commands.
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "base/log.h"
#include "cli/img/secrets.h"
#include "cli/io/session.h"
#include "cli/standard_files.h"

#ifndef VIREO_VERSION
#define VIREO_VERSION "?"
#endif

namespace vireo::cli::io {
namespace {

std::string g_self;  // what messages and the prompt begin with: scripts that know the program as qemu-io compare them

void help(const char* self) {
  printf("usage: %s [-c command]... [-f format] [-r] [-n] [-t cache] [-d discard] [-i aio] [-s] [-U] [--image-opts] [file]\n\n"
         "Reads and writes an image by commands, from -c or, without, line by line from standard input.\n"
         "Exit status 1 when any of them failed. '%s -c help' lists the commands.\n\n"
         "  -c, --cmd COMMAND    do this; may be given again\n  -f, --format FORMAT  raw, qcow2; without, what the file begins with\n"
         "  -r, --read-only      the file is not written\n  -n, --nocache        the same as -t none\n"
         "  -t, --cache MODE     writeback, none, writethrough, directsync, unsafe\n  -s, --snapshot       what is written goes to a temporary overlay and is lost at the end\n"
         "  -U, --force-share    others may write the image meanwhile\n"
         "      --image-opts     file is a list of options: driver=qcow2,file.filename=...\n"
         "  -d, -i, -k, -m, -T   taken and not needed\n", self, self);
}

// What is written goes to an overlay without a name, and with it at the end.
Result<std::shared_ptr<storage::Image>> over_temporary(std::shared_ptr<storage::Image> below) {
  const char* folder = getenv("TMPDIR");
  std::string path = std::string(folder ? folder : "/var/tmp") + "/vireo-io-XXXXXX";
  const int fd = mkstemp(path.data());
  if (fd < 0) return fail_errno("Could not create a temporary overlay '" + path + "'");
  ::close(fd);
  auto file = storage::open_file({.path = path, .no_flush = true});
  unlink(path.c_str());
  if (!file) return std::unexpected(std::move(file).error());
  TRY_VOID(storage::qcow2::create(**file, {.size = below->size()}));
  std::shared_ptr<storage::Image> image = TRY(storage::qcow2::Qcow2::open(std::move(*file), nullptr, {}));
  image->set_backing(std::move(below));
  return image;
}

}  // namespace

bool complain(const std::string& text) {
  fprintf(stderr, "%s: %s\n", g_self.c_str(), text.c_str());
  return false;
}

Result<> open(Session& session, const std::string& name, const img::OpenWish& wish, bool temporary) {
  img::OpenWish how = wish;
  if (temporary) how.writable = false;
  auto image = img::open(name, how);
  if (!image) {
    // The name is said once.
    Error error = std::move(image).error();
    const bool unnamed = name.empty() || (wish.image_options && wish.name_beside_options.empty());
    const std::string start = "Could not open '" + (wish.image_options && !wish.name_beside_options.empty() ? wish.name_beside_options : name) + "': ";
    if (error.message.starts_with(start)) error.message.erase(0, start.size());
    return std::unexpected(std::move(error).within("can't open" + (unnamed ? std::string() : " device " + (wish.image_options && !wish.name_beside_options.empty() ? wish.name_beside_options : name))));
  }
  session.image = std::move(*image);
  if (temporary) session.image = TRY(over_temporary(std::move(session.image)));
  session.temporary = temporary;
  session.name = name;
  session.wish = wish;
  return {};
}

Result<> close(Session& session) {
  if (!session.image) return {};
  finish_later(session);
  auto closed = session.image->close();
  session.image.reset();
  return closed;
}

int run(int argc, char** argv) {
  set_log_prefix("");
  g_self = argv[0];
  g_self.erase(0, g_self.rfind('/') + 1);
  Session session;
  session.wish.writable = true;
  std::vector<std::string> commands;
  std::string format;
  bool options = false, temporary = false;
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
        if (!img::valid_cache(optarg)) return complain("Invalid cache option: " + std::string(optarg)), 1;
        break;
      case 'U': session.wish.force_share = true; break;
      case 1: options = true; break;
      case 2:
        if (auto added = img::add_object(optarg); !added) return complain(added.error().message), 1;
        break;
      case 's': temporary = true; break;
      case 'C': return complain("--copy-on-read is not supported"), 1;
      case 'h': return help(argv[0]), 0;
      case 'V': return printf("qemu-io version 7.2.22 (Vireo %s)\n", VIREO_VERSION), 0;
      case '?': return fprintf(stderr, "Try '%s --help' for more information\n", argv[0]), 1;
      default: break;  // how QEMU goes about it
    }
  }
  if (argc - optind > 1) return help(argv[0]), 1;
  if (optind < argc) {
    img::OpenWish wish = session.wish;
    if (options && !format.empty()) return complain("--image-opts and -f are mutually exclusive"), 1;
    wish.format = format;
    wish.image_options = options;
    if (auto opened = open(session, argv[optind], wish, temporary); !opened) return complain(opened.error().message), 1;
  }
  bool good = true;
  for (const std::string& command : commands) {
    if (session.quit) break;
    good = execute(session, command) && good;
  }
  if (commands.empty()) {
    std::string line;
    while (!session.quit) {
      printf("%s> ", g_self.c_str());
      flush_output();
      if (!std::getline(std::cin, line)) break;
      good = execute(session, line) && good;
    }
  }
  if (auto closed = close(session); !closed) good = complain(closed.error().message);
  return good ? 0 : 1;
}

}  // namespace vireo::cli::io
