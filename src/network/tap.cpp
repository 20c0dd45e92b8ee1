// SPDX-License-Identifier: Apache-2.0
#include "network/tap.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include <cstring>

#include "base/log.h"

namespace vireo::network {
namespace {

constexpr size_t kMaxFrame = Backend::kVnetHeaderSize + 65536 + 64;  // a segmentation offload's largest, with room for VLAN tags
constexpr int kFramesPerRound = 64;

unsigned tun_bits(const Offloads& o) {
  // The kernel takes segmentation bits only along with the checksum's.
  if (!o.checksum) return 0;
  return TUN_F_CSUM | (o.tso4 ? TUN_F_TSO4 : 0) | (o.tso6 ? TUN_F_TSO6 : 0) |
         (o.ecn && (o.tso4 || o.tso6) ? TUN_F_TSO_ECN : 0) | (o.ufo ? TUN_F_UFO : 0);
}

}  // namespace

Result<std::unique_ptr<Tap>> Tap::create(const TapConfig& config, EventLoop& loop) {
  std::unique_ptr<Tap> tap(new Tap(loop));
  TRY_VOID(tap->open(config));
  return tap;
}

Tap::~Tap() {
  if (watched_) loop_.unwatch(fd_.get());
}

Result<> Tap::open(const TapConfig& config) {
  const std::string what = "network tap" + (config.name.empty() ? "" : " '" + config.name + "'");
  ifreq request{};
  if (config.fd >= 0) {
    fd_ = OwnedFd(config.fd);
    if (ioctl(fd_.get(), TUNGETIFF, &request) != 0)
      return fail_errno("network tap fd=" + std::to_string(config.fd) + ": not a tap descriptor");
    if (!(request.ifr_flags & IFF_TAP) || !(request.ifr_flags & IFF_VNET_HDR))
      return fail(ErrorKind::kInvalid, "network tap fd=" + std::to_string(config.fd) + ": must be opened with IFF_TAP and IFF_VNET_HDR");
    if (fcntl(fd_.get(), F_SETFL, fcntl(fd_.get(), F_GETFL) | O_NONBLOCK) != 0) return fail_errno(what);
  } else {
    if (config.name.size() >= IFNAMSIZ)
      return fail(ErrorKind::kInvalid, what + ": interface names have at most " + std::to_string(IFNAMSIZ - 1) + " bytes");
    // TUNSETIFF would make one, which is connected to nothing and gone at the end. Without a name that is wanted (tests).
    if (!config.name.empty() && if_nametoindex(config.name.c_str()) == 0)
      return fail(ErrorKind::kNotFound, what + ": no such interface (`ip tuntap add dev " + config.name + " mode tap` makes one)");
    fd_ = OwnedFd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (!fd_.valid()) return fail_errno(what + ": /dev/net/tun");
    memcpy(request.ifr_name, config.name.data(), config.name.size());
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (ioctl(fd_.get(), TUNSETIFF, &request) != 0) {
      if (errno == EBUSY) return fail(ErrorKind::kBusy, what + ": in use by another program", errno);
      if (errno == EPERM) return fail(ErrorKind::kIo, what + ": not permitted (it needs CAP_NET_ADMIN, or an interface made for this user)", errno);
      return fail_errno(what);
    }
  }
  name_ = request.ifr_name;
  int header = kVnetHeaderSize;
  if (ioctl(fd_.get(), TUNSETVNETHDRSZ, &header) != 0) return fail_errno(what + ": header size");
  auto works = [&](const Offloads& o) { return ioctl(fd_.get(), TUNSETOFFLOAD, tun_bits(o)) == 0; };
  supported_.checksum = works({.checksum = true});
  supported_.tso4 = supported_.tso6 = supported_.ecn =
      supported_.checksum && works({.checksum = true, .tso4 = true, .tso6 = true, .ecn = true});
  set_offloads({});
  frame_.resize(kMaxFrame);
  TRY_VOID(loop_.watch(fd_.get(), 0, [this](uint32_t events) {
    if (!(events & (EPOLLERR | EPOLLHUP))) return readable();
    // The interface was deleted: hang-ups cannot be masked and would come for ever.
    log(LogLevel::kWarning, "network tap '%s' is gone", name_.c_str());
    loop_.unwatch(fd_.get());
    watched_ = false;
  }));
  watched_ = true;
  return {};
}

void Tap::set_offloads(const Offloads& accepted) {
  if (ioctl(fd_.get(), TUNSETOFFLOAD, tun_bits(accepted)) != 0)
    log(LogLevel::kWarning, "network tap '%s': offloads: %s", name_.c_str(), strerror(errno));
}

void Tap::send(std::span<const iovec> frame) {
  ssize_t result;
  do result = writev(fd_.get(), frame.data(), static_cast<int>(std::min<size_t>(frame.size(), IOV_MAX)));
  while (result < 0 && errno == EINTR);
}

void Tap::set_receiver(Receiver receiver) {
  receiver_ = std::move(receiver);
  kept_ = 0;
  listen(receiver_ != nullptr);
}

void Tap::listen(bool on) {
  if (watched_) loop_.change(fd_.get(), on ? uint32_t{EPOLLIN} : 0);
}

void Tap::readable() {
  for (int i = 0; i < kFramesPerRound && receiver_; ++i) {
    ssize_t size = ::read(fd_.get(), frame_.data(), frame_.size());
    if (size <= 0) return;
    if (static_cast<size_t>(size) <= kVnetHeaderSize) continue;
    if (receiver_({frame_.data(), static_cast<size_t>(size)})) continue;
    kept_ = static_cast<size_t>(size);
    return listen(false);
  }
}

void Tap::resume() {
  if (!receiver_) return;
  if (kept_) {
    if (!receiver_({frame_.data(), kept_})) return;
    kept_ = 0;
  }
  listen(true);
}

}  // namespace vireo::network
