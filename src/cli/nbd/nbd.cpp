// SPDX-License-Identifier: Apache-2.0
// `vireo nbd`: one export, any number of clients.
#include "cli/nbd/nbd.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <list>

#include "cli/img/img.h"
#include "cli/img/secrets.h"
#include "storage/nbd/connection.h"
#include "storage/nbd/tls.h"

#ifndef VIREO_VERSION
#define VIREO_VERSION "?"
#endif

namespace vireo::cli::nbd {
namespace {

using storage::nbd::Connection;
using storage::nbd::Export;

void help(const char* self) {
  printf("usage: %s [options] file\n\nGives an image to others by the NBD protocol.\n\n"
         "  -k, --socket PATH        listen on a Unix socket\n  -b, --bind ADDRESS       listen on this address (default: all)\n"
         "  -p, --port PORT          listen on this TCP port (default 10809)\n  -f, --format FORMAT      raw, qcow2; without, what the file begins with\n"
         "  -r, --read-only          clients cannot write\n  -x, --export-name NAME   what clients ask for (default: no name)\n"
         "  -D, --description TEXT   told to clients that ask\n  -B, --bitmap NAME        show this dirty bitmap; may be given again\n"
         "  -l, --load-snapshot NAME show this internal snapshot, read-only\n  -s, --snapshot           (not supported)\n"
         "  -e, --shared N           so many clients at a time (default 1; 0: any number)\n"
         "  -t, --persistent         go on when the last client has left\n      --cache MODE         writeback, none, writethrough, directsync, unsafe\n"
         "      --tls-cert FILE, --tls-key FILE   certificate and key (PEM): clients must use TLS\n"
         "      --tls-ca FILE        and must show a certificate that this one signed\n"
         "      --fork               go to the background once clients can come\n      --pid-file FILE      write the process's number there\n"
         "      --image-opts         file is a list of options\n  -v, --verbose            tell of clients and their errors\n",
         self);
}

struct Options {
  std::string socket, address, port, name, description, snapshot, pid_file;
  std::vector<std::string> bitmaps;
  std::optional<std::string> cert, key, ca;
  img::OpenWish wish{.writable = true};
  unsigned shared = 1;
  bool persistent = false, fork = false, verbose = false;
};

struct Client {
  std::unique_ptr<Connection> connection;
  std::thread thread;
  std::atomic<bool> done = false;
};

// Clients come and go until a signal says enough, or the last one has left.
Result<> serve(const Export& what, const Options& options, int listening, int signals) {
  std::list<Client> clients;
  OwnedFd ended_read, ended_write;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno("pipe");
  ended_read.reset(ends[0]);
  ended_write.reset(ends[1]);
  bool had = false, full = false;
  auto reap = [&] {
    for (auto it = clients.begin(); it != clients.end();) {
      if (!it->done) {
        ++it;
        continue;
      }
      it->thread.join();
      it = clients.erase(it);
    }
  };
  while (options.persistent || !had || !clients.empty()) {
    full = options.shared && clients.size() >= options.shared;
    pollfd fds[] = {{signals, POLLIN, 0}, {ended_read.get(), POLLIN, 0}, {listening, POLLIN, 0}};
    if (poll(fds, full ? 2 : 3, -1) < 0 && errno != EINTR) return fail_errno("poll");
    if (fds[0].revents) break;
    if (fds[1].revents) {
      char drop[64];
      while (read(ended_read.get(), drop, sizeof drop) > 0) {
      }
      reap();
    }
    if (full || !fds[2].revents) continue;
    OwnedFd fd(accept4(listening, nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd.valid()) continue;
    int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    had = true;
    Client& client = clients.emplace_back();
    client.connection = std::make_unique<Connection>(what, storage::nbd::socket_channel(std::move(fd)), 4);
    client.thread = std::thread([&client, &options, wake = ended_write.get()] {
      auto result = client.connection->serve();
      if (!result && options.verbose) fprintf(stderr, "vireo nbd: a client: %s\n", result.error().message.c_str());
      client.connection->shut();
      client.done = true;
      (void)!write(wake, "", 1);
    });
  }
  for (Client& client : clients) client.connection->shut();
  for (Client& client : clients) client.thread.join();
  return {};
}

Result<int> run_with(const Options& o, const std::string& file) {
  img::OpenWish wish = o.wish;
  if (!o.snapshot.empty()) wish.writable = false;
  Export what{.name = o.name, .description = o.description, .image = TRY(img::open(file, wish)), .read_only = !wish.writable, .bitmaps = {}, .start_tls = {}};
  auto* q = img::as_qcow2(*what.image);
  if (!o.snapshot.empty()) {
    int index = q ? q->find_snapshot(o.snapshot) : -1;
    if (index < 0) return fail(ErrorKind::kInvalid, "Failed to load snapshot: Can't find snapshot");
    TRY_VOID(q->show_snapshot(static_cast<size_t>(index)));
  }
  for (const std::string& name : o.bitmaps) {
    if (!q || !q->find_bitmap(name)) return fail(ErrorKind::kInvalid, "Bitmap '" + name + "' is not found");
    // A client that reads it while others write would see it change.
    if (!what.read_only && q->find_bitmap(name)->enabled()) return fail(ErrorKind::kInvalid, "Enabled bitmap '" + name + "' incompatible with writable export");
    what.bitmaps.emplace_back(name, TRY(q->bitmap_bits(name)));
  }
  if (o.cert || o.key || o.ca) {
    if (!o.cert || !o.key) return fail(ErrorKind::kInvalid, "--tls-cert and --tls-key are needed together");
    what.start_tls = TRY(storage::nbd::tls_server(*o.cert, *o.key, o.ca));
    what.tls_required = true;
  }
  sigset_t ends;
  sigemptyset(&ends);
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&ends, signal);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  signal(SIGPIPE, SIG_IGN);  // TLS writes without MSG_NOSIGNAL
  OwnedFd signals(signalfd(-1, &ends, SFD_CLOEXEC));
  if (!signals.valid()) return fail_errno("signalfd");
  what.one_connection = o.shared == 1;
  OwnedFd listening = o.socket.empty() ? TRY(listen_tcp(o.address, o.port.empty() ? "10809" : o.port)) : TRY(listen_unix(o.socket));
  if (o.fork) {
    pid_t child = ::fork();
    if (child < 0) return fail_errno("fork");
    if (child > 0) _exit(0);
    setsid();
    int null = ::open("/dev/null", O_RDWR);
    for (int fd : {0, 1, 2}) dup2(null, fd);
  }
  if (!o.pid_file.empty()) {
    FILE* out = fopen(o.pid_file.c_str(), "we");
    if (!out) return fail_errno("--pid-file '" + o.pid_file + "'");
    fprintf(out, "%d\n", getpid());
    fclose(out);
  }
  auto served = serve(what, o, listening.get(), signals.get());
  if (!o.socket.empty()) unlink(o.socket.c_str());
  if (!o.pid_file.empty()) unlink(o.pid_file.c_str());
  TRY_VOID(served);
  TRY_VOID(what.image->close());
  return 0;
}

}  // namespace

int run(int argc, char** argv) {
  Options o;
  enum { kCache = 1000, kFork, kPidFile, kImageOpts, kCert, kKey, kCa, kTaken, kObject };
  static const option kLong[] = {{"socket", 1, nullptr, 'k'}, {"bind", 1, nullptr, 'b'}, {"port", 1, nullptr, 'p'}, {"format", 1, nullptr, 'f'},
                                 {"read-only", 0, nullptr, 'r'}, {"export-name", 1, nullptr, 'x'}, {"description", 1, nullptr, 'D'}, {"bitmap", 1, nullptr, 'B'},
                                 {"load-snapshot", 1, nullptr, 'l'}, {"shared", 1, nullptr, 'e'}, {"persistent", 0, nullptr, 't'}, {"nocache", 0, nullptr, 'n'},
                                 {"verbose", 0, nullptr, 'v'}, {"help", 0, nullptr, 'h'}, {"version", 0, nullptr, 'V'}, {"cache", 1, nullptr, kCache},
                                 {"fork", 0, nullptr, kFork}, {"pid-file", 1, nullptr, kPidFile}, {"image-opts", 0, nullptr, kImageOpts},
                                 {"tls-cert", 1, nullptr, kCert}, {"tls-key", 1, nullptr, kKey}, {"tls-ca", 1, nullptr, kCa}, {"aio", 1, nullptr, kTaken},
                                 {"discard", 1, nullptr, kTaken}, {"detect-zeroes", 1, nullptr, kTaken}, {"object", 1, nullptr, kObject}, {}};
  auto say = [&](const std::string& text) {
    fprintf(stderr, "%s: %s\n", argv[0], text.c_str());
    return 1;
  };
  optind = 0;
  for (int c; (c = getopt_long(argc, argv, "k:b:p:f:rx:D:B:l:e:tnvhV", kLong, nullptr)) >= 0;) {
    switch (c) {
      case 'k': o.socket = optarg; break;
      case 'b': o.address = optarg; break;
      case 'p': o.port = optarg; break;
      case 'f': o.wish.format = optarg; break;
      case 'r': o.wish.writable = false; break;
      case 'x': o.name = optarg; break;
      case 'D': o.description = optarg; break;
      case 'B': o.bitmaps.emplace_back(optarg); break;
      case 'l': o.snapshot = optarg; break;
      case 'e': {
        char* end;
        unsigned long n = strtoul(optarg, &end, 10);
        if (*end || !*optarg || n > 1000000) return say("Invalid shared device number '" + std::string(optarg) + "'");
        o.shared = static_cast<unsigned>(n);
        break;
      }
      case 't': o.persistent = true; break;
      case 'n': o.wish.cache = "none"; break;
      case 'v': o.verbose = true; break;
      case 'h': return help(argv[0]), 0;
      case 'V': return printf("qemu-nbd 7.2.22 (Vireo %s)\n", VIREO_VERSION), 0;
      case kCache:
        if (!img::valid_cache(optarg)) return say("Invalid cache mode `" + std::string(optarg) + "'");
        o.wish.cache = optarg;
        break;
      case kFork: o.fork = true; break;
      case kPidFile: o.pid_file = optarg; break;
      case kImageOpts: o.wish.image_options = true; break;
      case kCert: o.cert = optarg; break;
      case kKey: o.key = optarg; break;
      case kCa: o.ca = optarg; break;
      case kObject:
        if (auto added = img::add_object(optarg); !added) return say(added.error().message);
        break;
      case kTaken: break;
      default: return say("Try '" + std::string(argv[0]) + " --help' for more information.");
    }
  }
  if (argc - optind != 1) return say("Expecting one image file name\nTry '" + std::string(argv[0]) + " --help' for more information.");
  if (!o.socket.empty() && !(o.address.empty() && o.port.empty())) return say("--socket cannot be used with --bind or --port");
  if (o.name.size() > 4096 || o.description.size() > 4096) return say("--export-name and --description have at most 4096 bytes");
  auto status = run_with(o, argv[optind]);
  return status ? *status : say(status.error().message);
}

}  // namespace vireo::cli::nbd
