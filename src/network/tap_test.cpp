// SPDX-License-Identifier: Apache-2.0
#include "network/tap.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if.h>
#include <net/ethernet.h>
#include <netpacket/packet.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>

namespace vireo::network {
namespace {

class TapTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = Tap::create({}, *loop);
    if (!made) GTEST_SKIP() << made.error().message;  // needs CAP_NET_ADMIN
    tap = std::move(*made);
    OwnedFd control(socket(AF_INET, SOCK_DGRAM, 0));
    ifreq request{};
    strncpy(request.ifr_name, tap->name().c_str(), IFNAMSIZ - 1);
    ioctl(control.get(), SIOCGIFFLAGS, &request);
    request.ifr_flags |= IFF_UP;
    if (ioctl(control.get(), SIOCSIFFLAGS, &request) != 0) GTEST_SKIP() << "cannot bring the interface up";
    ioctl(control.get(), SIOCGIFINDEX, &request);
    wire = OwnedFd(socket(AF_PACKET, SOCK_RAW, htons(0x88b5)));  // IEEE 802's type for experiments
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(0x88b5);
    address.sll_ifindex = request.ifr_ifindex;
    address.sll_halen = 6;
    if (bind(wire.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) GTEST_SKIP() << "no packet sockets";
  }
  std::string frame(char fill) {
    std::string out(64, fill);
    memcpy(out.data(), "\xff\xff\xff\xff\xff\xff\x52\x54\x00\x01\x02\x03\x88\xb5", 14);
    return out;
  }
  void from_host(char fill) {
    std::string f = frame(fill);
    ASSERT_EQ(sendto(wire.get(), f.data(), f.size(), 0, reinterpret_cast<sockaddr*>(&address), sizeof address), 64);
  }
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  std::unique_ptr<Tap> tap;
  OwnedFd wire;
  sockaddr_ll address{};
};

TEST_F(TapTest, FramesGoToTheHost) {
  std::string header(Backend::kVnetHeaderSize, 0), body = frame('o');
  iovec parts[] = {{header.data(), header.size()}, {body.data(), body.size()}};
  tap->send(parts);
  char got[128];
  EXPECT_EQ(recv(wire.get(), got, sizeof got, 0), 64);
  EXPECT_EQ(memcmp(got, body.data(), 64), 0);
}

TEST_F(TapTest, FramesComeWithHeaderAndWaitForRoom) {
  std::vector<std::string> received;
  bool full = false;
  tap->set_receiver([&](std::span<const std::byte> bytes) {
    std::string f(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (f.size() < 26 || f.substr(24, 2) != "\x88\xb5") return true;  // the host's own chatter
    if (full) return false;
    received.push_back(f.substr(Backend::kVnetHeaderSize));
    return true;
  });
  from_host('a');
  while (received.size() < 1) loop->step(-1);
  EXPECT_EQ(received[0], frame('a'));
  full = true;
  from_host('b');
  from_host('c');
  for (int i = 0; i < 3; ++i) loop->step(5);
  EXPECT_EQ(received.size(), 1u);
  full = false;
  tap->resume();
  while (received.size() < 3) loop->step(-1);
  EXPECT_EQ(received[1], frame('b'));
  EXPECT_EQ(received[2], frame('c'));
}

TEST_F(TapTest, KernelOffersOffloads) {
  EXPECT_TRUE(tap->supported_offloads().checksum);
  tap->set_offloads({.checksum = true, .tso4 = true});
}

TEST(TapCreate, MistakesAreNamed) {
  auto loop = std::move(*EventLoop::create());
  EXPECT_EQ(Tap::create({.name = "a-name-that-is-too-long"}, *loop).error().message,
            "network tap 'a-name-that-is-too-long': interface names have at most 15 bytes");
  EXPECT_EQ(Tap::create({.name = "no-such-tap"}, *loop).error().message,
            "network tap 'no-such-tap': no such interface (`ip tuntap add dev no-such-tap mode tap` makes one)");
  int null = open("/dev/null", O_RDWR);
  EXPECT_NE(Tap::create({.fd = null}, *loop).error().message.find("not a tap descriptor"), std::string::npos);
}

}  // namespace
}  // namespace vireo::network
