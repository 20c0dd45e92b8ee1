// SPDX-License-Identifier: Apache-2.0
// libslirp is written around one poll(2) loop: it names its descriptors and longest wait before each poll and hears the
// results after it. Here its descriptors live in an epoll of their own, which the event loop watches as one; they are
// renewed whenever libslirp may have changed them.
#include "network/user.h"

#include <arpa/inet.h>
#include <slirp/libslirp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>

#include "base/delay_load.h"
#include "base/log.h"
#include "base/owned_fd.h"

VIREO_DELAY_LOADED(slirp);

namespace vireo::network {
namespace {

constexpr size_t kMaxFrame = 65536 + 64;
// Frames kept while the guest has no buffers. Beyond that they are lost and TCP slows down.
constexpr size_t kMaxKept = 512;
constexpr int kEvents = 64;
constexpr size_t kMtu = 1500;

uint32_t to_epoll(int slirp_events) {
  return (slirp_events & SLIRP_POLL_IN ? EPOLLIN : 0u) | (slirp_events & SLIRP_POLL_OUT ? EPOLLOUT : 0u) |
         (slirp_events & SLIRP_POLL_PRI ? EPOLLPRI : 0u);
}

int from_epoll(uint32_t events) {
  return (events & EPOLLIN ? SLIRP_POLL_IN : 0) | (events & EPOLLOUT ? SLIRP_POLL_OUT : 0) |
         (events & EPOLLPRI ? SLIRP_POLL_PRI : 0) | (events & EPOLLERR ? SLIRP_POLL_ERR : 0) |
         (events & EPOLLHUP ? SLIRP_POLL_HUP : 0);
}

std::string in_words(const HostForward& f) {
  return std::string("hostfwd ") + (f.udp ? "udp" : "tcp") + ":" + f.host_address + ":" + std::to_string(f.host_port);
}

}  // namespace

struct User::Impl {
  explicit Impl(EventLoop& loop) : loop(loop) {}
  ~Impl() {
    if (slirp) slirp_cleanup(slirp);
    if (watching) loop.unwatch(epoll.get());
  }

  struct Watched {
    int events = 0;
    int ready = 0;
    bool wanted = false;
  };
  struct SlirpTimer {
    std::unique_ptr<Timer> timer;
  };

  EventLoop& loop;
  Slirp* slirp = nullptr;
  OwnedFd epoll;
  bool watching = false;
  std::map<int, Watched> fds;
  std::vector<int> by_index;  // libslirp's index of a descriptor in this round
  std::unique_ptr<Timer> timeout;
  bool refresh_posted = false;
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);

  in_addr network{}, router{}, name_server{}, guest{};
  Backend::Receiver receiver;
  std::deque<std::vector<std::byte>> kept;
  std::vector<uint8_t> gathered;

  // ---- frames ----
  void deliver(std::span<const std::byte> frame) {
    if (!receiver) return;
    if (kept.empty() && receiver(frame)) return;
    if (kept.size() < kMaxKept) kept.emplace_back(frame.begin(), frame.end());
  }

  void resume() {
    while (receiver && !kept.empty() && receiver(kept.front())) kept.pop_front();
  }

  void send(std::span<const iovec> frame) {
    size_t size = 0;
    for (const iovec& part : frame) size += part.iov_len;
    if (size > kMaxFrame) return;
    const uint8_t* bytes;
    if (frame.size() == 1) {
      bytes = static_cast<const uint8_t*>(frame[0].iov_base);
    } else {
      gathered.clear();
      for (const iovec& part : frame) {
        auto* p = static_cast<const uint8_t*>(part.iov_base);
        gathered.insert(gathered.end(), p, p + part.iov_len);
      }
      bytes = gathered.data();
    }
    slirp_input(slirp, bytes, static_cast<int>(size));
    refresh_later();
  }

  // ---- polling ----
  // Once for all frames of a round.
  void refresh_later() {
    if (std::exchange(refresh_posted, true)) return;
    loop.post([this, alive = std::weak_ptr(alive)] {
      if (alive.expired()) return;
      refresh_posted = false;
      refresh();
    });
  }

  void refresh() {
    for (auto& [fd, watched] : fds) watched.wanted = false;
    by_index.clear();
    uint32_t wait_ms = UINT32_MAX;
    slirp_pollfds_fill(
        slirp, &wait_ms,
        [](int fd, int events, void* opaque) {
          auto& self = *static_cast<Impl*>(opaque);
          self.want(fd, events);
          self.by_index.push_back(fd);
          return static_cast<int>(self.by_index.size()) - 1;
        },
        this);
    std::erase_if(fds, [&](auto& entry) {
      if (entry.second.wanted) return false;
      epoll_ctl(epoll.get(), EPOLL_CTL_DEL, entry.first, nullptr);
      return true;
    });
    if (wait_ms == UINT32_MAX)
      timeout->cancel();
    else
      timeout->arm(loop.now_ns() + wait_ms * 1'000'000ull);
  }

  void want(int fd, int events) {
    epoll_event event{.events = to_epoll(events), .data = {.fd = fd}};
    auto found = fds.find(fd);
    if (found == fds.end()) {
      if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0 && errno == EEXIST)
        epoll_ctl(epoll.get(), EPOLL_CTL_MOD, fd, &event);
    } else if (found->second.events != events) {
      if (epoll_ctl(epoll.get(), EPOLL_CTL_MOD, fd, &event) != 0 && errno == ENOENT)
        epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event);
    }
    fds[fd] = {.events = events, .wanted = true};
  }

  void poll() {
    epoll_event events[kEvents];
    int count = epoll_wait(epoll.get(), events, kEvents, 0);
    for (int i = 0; i < count; ++i)
      if (auto found = fds.find(events[i].data.fd); found != fds.end()) found->second.ready = from_epoll(events[i].events);
    slirp_pollfds_poll(
        slirp, count < 0,
        [](int index, void* opaque) {
          auto& self = *static_cast<Impl*>(opaque);
          if (index < 0 || static_cast<size_t>(index) >= self.by_index.size()) return 0;
          auto found = self.fds.find(self.by_index[static_cast<size_t>(index)]);
          // Hang-ups come unasked, and libslirp counts on errors only where it polls.
          return found == self.fds.end() ? 0 : found->second.ready & (found->second.events | SLIRP_POLL_ERR | SLIRP_POLL_HUP);
        },
        this);
    for (auto& [fd, watched] : fds) watched.ready = 0;
    refresh();
  }

  // A closed descriptor leaves the epoll by itself, and its number may come back as another.
  void forget(int fd) {
    if (fds.erase(fd)) epoll_ctl(epoll.get(), EPOLL_CTL_DEL, fd, nullptr);
  }

  Result<> start(const UserConfig& config);
};

Result<> User::Impl::start(const UserConfig& config) {
  if (inet_pton(AF_INET, config.network.c_str(), &network) != 1 || (ntohl(network.s_addr) & 0xff) != 0)
    return fail(ErrorKind::kInvalid, "network user net=" + config.network + ": must be an IPv4 network ending in .0");
  auto host = [&](uint32_t last) { return in_addr{htonl(ntohl(network.s_addr) + last)}; };
  router = host(2);
  name_server = host(3);
  guest = host(15);

  if (auto loaded = load_library(vireo_delay_load_slirp); !loaded) return std::unexpected(std::move(loaded).error().within("network user"));
  epoll = OwnedFd(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return fail_errno("network user: epoll_create1");
  TRY_VOID(loop.watch(epoll.get(), EPOLLIN, [this](uint32_t) { poll(); }));
  watching = true;
  timeout = loop.create([this] { poll(); });

  static const SlirpCb kCallbacks = {
      .send_packet = [](const void* bytes, size_t size, void* opaque) -> ssize_t {
        static_cast<User::Impl*>(opaque)->deliver({static_cast<const std::byte*>(bytes), size});
        return static_cast<ssize_t>(size);
      },
      .guest_error =
          [](const char* message, void*) {
            static RateLimit limit;
            if (limit.allow()) log(LogLevel::kInfo, "network user: guest: %s", message);
          },
      .clock_get_ns = [](void* opaque) -> int64_t {
        return static_cast<int64_t>(static_cast<User::Impl*>(opaque)->loop.now_ns());
      },
      .timer_new = [](SlirpTimerCb callback, void* callback_opaque, void* opaque) -> void* {
        auto* self = static_cast<User::Impl*>(opaque);
        return new SlirpTimer{self->loop.create([self, callback, callback_opaque] {
          callback(callback_opaque);
          self->refresh_later();
        })};
      },
      .timer_free = [](void* timer, void*) { delete static_cast<SlirpTimer*>(timer); },
      .timer_mod =
          [](void* timer, int64_t expire_ms, void*) {
            static_cast<SlirpTimer*>(timer)->timer->arm(static_cast<uint64_t>(std::max<int64_t>(expire_ms, 0)) * 1'000'000);
          },
      .register_poll_fd = [](int, void*) {},
      .unregister_poll_fd = [](int fd, void* opaque) { static_cast<User::Impl*>(opaque)->forget(fd); },
      .notify = [](void* opaque) { static_cast<User::Impl*>(opaque)->refresh_later(); },
  };
  std::vector<const char*> search;
  for (auto& domain : config.dns_search) search.push_back(domain.c_str());
  search.push_back(nullptr);
  SlirpConfig slirp_config{};
  slirp_config.version = 1;
  slirp_config.restricted = config.restricted;
  slirp_config.in_enabled = true;
  slirp_config.vnetwork = network;
  slirp_config.vnetmask.s_addr = htonl(0xffffff00);
  slirp_config.vhost = router;
  slirp_config.in6_enabled = config.ipv6;
  inet_pton(AF_INET6, "fec0::", &slirp_config.vprefix_addr6);
  slirp_config.vprefix_len = 64;
  inet_pton(AF_INET6, "fec0::2", &slirp_config.vhost6);
  inet_pton(AF_INET6, "fec0::3", &slirp_config.vnameserver6);
  slirp_config.vhostname = config.hostname.empty() ? nullptr : config.hostname.c_str();
  slirp_config.tftp_path = config.tftp_directory.empty() ? nullptr : config.tftp_directory.c_str();
  slirp_config.bootfile = config.boot_file.empty() ? nullptr : config.boot_file.c_str();
  slirp_config.vdhcp_start = guest;
  slirp_config.vnameserver = name_server;
  slirp_config.vdnssearch = config.dns_search.empty() ? nullptr : search.data();
  slirp_config.if_mtu = slirp_config.if_mru = kMtu;
  slirp = slirp_new(&slirp_config, &kCallbacks, this);
  if (!slirp) return fail(ErrorKind::kInternal, "network user: libslirp refused its configuration");
  refresh();
  return {};
}

Result<std::unique_ptr<User>> User::create(const UserConfig& config, EventLoop& loop) {
  auto impl = std::make_unique<Impl>(loop);
  TRY_VOID(impl->start(config));
  std::unique_ptr<User> user(new User(std::move(impl)));
  for (const HostForward& forward : config.forwards) TRY_VOID(user->add_forward(forward));
  return user;
}

User::User(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
User::~User() = default;

void User::send(std::span<const iovec> frame) { impl_->send(frame); }

void User::set_receiver(Receiver receiver) {
  impl_->receiver = std::move(receiver);
  impl_->kept.clear();
}

void User::resume() { impl_->resume(); }

Result<> User::add_forward(const HostForward& forward) {
  const std::string what = "network user: " + in_words(forward);
  in_addr host{}, guest{};
  if (!forward.host_address.empty() && inet_pton(AF_INET, forward.host_address.c_str(), &host) != 1)
    return fail(ErrorKind::kInvalid, what + ": '" + forward.host_address + "' is not an IPv4 address");
  if (!forward.guest_address.empty() && inet_pton(AF_INET, forward.guest_address.c_str(), &guest) != 1)
    return fail(ErrorKind::kInvalid, what + ": '" + forward.guest_address + "' is not an IPv4 address");
  if (forward.guest_port == 0) return fail(ErrorKind::kInvalid, what + ": the guest's port is missing");
  if (guest.s_addr == 0) guest = impl_->guest;
  errno = 0;
  if (slirp_add_hostfwd(impl_->slirp, forward.udp, host, forward.host_port, guest, forward.guest_port) != 0) {
    int error = errno;
    if (error == EADDRINUSE)
      return fail(ErrorKind::kBusy, what + ": port already bound: another program on this host uses it", error);
    if (error == EACCES)
      return fail(ErrorKind::kIo, what + ": not permitted: ports below 1024 need privileges", error);
    return fail_errno(what, error ? error : EINVAL);
  }
  impl_->refresh_later();
  return {};
}

Result<> User::remove_forward(const HostForward& forward) {
  in_addr host{};
  if (!forward.host_address.empty()) inet_pton(AF_INET, forward.host_address.c_str(), &host);
  if (slirp_remove_hostfwd(impl_->slirp, forward.udp, host, forward.host_port) != 0)
    return fail(ErrorKind::kNotFound, "network user: " + in_words(forward) + ": there is no such forward");
  impl_->refresh_later();
  return {};
}

}  // namespace vireo::network
