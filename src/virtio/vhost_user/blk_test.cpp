// SPDX-License-Identifier: Apache-2.0
// The disk against a back-end on a thread of its own, which agrees to everything and remembers what was written to its configuration.
#include "virtio/vhost_user/blk.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

#include "virtio/guest_fake.h"

namespace vireo::virtio::vhost_user {
namespace {

constexpr uint32_t kWriteback = offsetof(virtio_blk_config, wce);

class BackEnd {
 public:
  BackEnd() {
    unlink(path.c_str());
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    memcpy(address.sun_path, path.data(), path.size());
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener_.get(), 4), 0);
    thread_ = std::thread([this] {
      for (OwnedFd peer; peer = OwnedFd(accept(listener_.get(), nullptr, nullptr)), peer.valid();) {
        {
          std::lock_guard lock(mutex_);
          peer_ = peer.get();
          ++session_;
        }
        while (answer(peer.get())) {
        }
        std::lock_guard lock(mutex_);
        peer_ = -1;
      }
    });
  }
  ~BackEnd() {
    shutdown(listener_.get(), SHUT_RDWR);
    hang_up();
    thread_.join();
    unlink(path.c_str());
  }
  void hang_up() {
    std::lock_guard lock(mutex_);
    if (peer_ >= 0) shutdown(peer_, SHUT_RDWR);
  }
  struct Written {
    unsigned session;
    uint32_t offset;
    unsigned value;
    bool operator==(const Written&) const = default;
  };
  std::vector<Written> written() {
    std::lock_guard lock(mutex_);
    return written_;
  }
  std::atomic<bool> less = false;  // the sessions to come know no flushes, and have another disk
  std::atomic<unsigned> asked = 0;  // for features, in all sessions
  const std::string path = testing::TempDir() + "vireo-back-end-" + std::to_string(getpid());

 private:
  bool answer(int peer) {
    Header head;
    alignas(cmsghdr) char control[256];
    iovec part{&head, sizeof head};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (recvmsg(peer, &message, MSG_WAITALL) != sizeof head) return false;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
      for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) close(reinterpret_cast<int*>(CMSG_DATA(c))[i]);
    std::vector<std::byte> payload(head.size);
    if (head.size && recv(peer, payload.data(), payload.size(), MSG_WAITALL) != static_cast<ssize_t>(payload.size())) return false;
    auto reply = [&](std::span<const std::byte> bytes) {
      Header out{head.request, Header::kVersion | Header::kReply, static_cast<uint32_t>(bytes.size())};
      return send(peer, &out, sizeof out, MSG_NOSIGNAL) == sizeof out &&
             send(peer, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
    };
    auto value = [&](uint64_t v) { return reply(std::as_bytes(std::span(&v, 1))); };
    switch (static_cast<Request>(head.request)) {
      case Request::kGetFeatures:
        ++asked;
        return value(bit(VIRTIO_F_VERSION_1) | kFeatureProtocol | (less ? 0 : bit(VIRTIO_BLK_F_FLUSH)) | bit(VIRTIO_BLK_F_CONFIG_WCE));
      case Request::kGetProtocolFeatures: return value(kProtocolReplyAck | kProtocolConfig);
      case Request::kGetVringBase: return reply(payload);
      case Request::kGetConfig: {
        virtio_blk_config space{};
        space.capacity = less ? 4096 : 2048;
        space.wce = 1;
        memcpy(payload.data() + sizeof(ConfigHead), &space, std::min(sizeof space, payload.size() - sizeof(ConfigHead)));
        return reply(payload);
      }
      case Request::kSetConfig: {
        ConfigHead config;
        memcpy(&config, payload.data(), sizeof config);
        std::lock_guard lock(mutex_);
        written_.push_back({session_, config.offset, std::to_integer<unsigned>(payload.at(sizeof config))});
        break;
      }
      default: break;
    }
    return !(head.flags & Header::kNeedReply) || value(0);
  }

  OwnedFd listener_{socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  std::thread thread_;
  std::mutex mutex_;
  int peer_ = -1;
  unsigned session_ = 0;
  std::vector<Written> written_;
};

class VhostUserBlk : public testing::Test {
 protected:
  void make() {
    auto blk = Blk::create({.path = back_end.path}, {*loop, *memory});
    ASSERT_TRUE(blk) << blk.error().message;
    guest = std::make_unique<FakeGuest>(std::move(*blk), *memory, heap, *loop);
  }
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  std::unique_ptr<GuestMemory> memory =
      std::move(*GuestMemory::create({.size = 16 << 20, .backing = MemoryConfig::Backing::kMemfd, .transparent_huge_pages = false}, 3ull << 30));
  FakeHeap heap{*memory};
  BackEnd back_end;
  std::unique_ptr<FakeGuest> guest;
};

using Written = std::vector<BackEnd::Written>;

// A driver that has switched the cache off sends no flushes: a back-end that comes later must not switch it on again behind its back.
TEST_F(VhostUserBlk, CacheModeIsTheDriversWhoeverServes) {
  make();
  guest->start();
  EXPECT_EQ(guest->config<uint8_t>(kWriteback), 1);
  EXPECT_TRUE(back_end.written().empty());
  guest->set_config<uint8_t>(kWriteback, 0);
  EXPECT_EQ(back_end.written(), (Written{{1, kWriteback, 0}}));
  back_end.hang_up();
  for (int i = 0; i < 100 && back_end.written().size() < 2; ++i) loop->step(100);
  EXPECT_EQ(back_end.written(), (Written{{1, kWriteback, 0}, {2, kWriteback, 0}}));
  EXPECT_EQ(guest->config<uint8_t>(kWriteback), 0);
}

TEST_F(VhostUserBlk, DiskOfABackEndThatIsRefusedIsNotShown) {
  make();
  guest->start();
  EXPECT_EQ(guest->config<uint64_t>(0), 2048u);
  back_end.less = true;
  back_end.hang_up();
  for (int i = 0; i < 100 && back_end.asked < 3; ++i) loop->step(100);
  EXPECT_EQ(back_end.asked, 3u) << "tried again";
  EXPECT_EQ(guest->config<uint64_t>(0), 2048u);
}

TEST_F(VhostUserBlk, CacheModeThatWasSavedIsToldToTheBackEnd) {
  make();
  guest->start();
  guest->set_config<uint8_t>(kWriteback, 0);
  MapArchive saved;
  guest->mmio->fields(saved);
  guest.reset();
  make();
  auto loader = saved.loader();
  guest->mmio->fields(loader);
  EXPECT_EQ(guest->config<uint8_t>(kWriteback), 0);
  EXPECT_EQ(back_end.written(), (Written{{1, kWriteback, 0}, {2, kWriteback, 0}}));
}

// virtio 5.2.5.2: "If VIRTIO_BLK_F_CONFIG_WCE is negotiated but VIRTIO_BLK_F_FLUSH is not, the device MUST initialize writeback to 0."
TEST_F(VhostUserBlk, DriverThatCannotFlushGetsNoCache) {
  make();
  guest->start(guest->offered() & ~bit(VIRTIO_BLK_F_FLUSH));
  EXPECT_EQ(guest->config<uint8_t>(kWriteback), 0);
  EXPECT_EQ(back_end.written(), (Written{{1, kWriteback, 0}}));
}

}  // namespace
}  // namespace vireo::virtio::vhost_user
