// SPDX-License-Identifier: Apache-2.0
// A guest made of raw frames: DHCP (RFC 2131), ARP (RFC 826), UDP and TCP through a host forward.
#include "network/user.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include <cstring>

#include "base/owned_fd.h"

namespace vireo::network {
namespace {

constexpr uint8_t kGuestMac[6] = {0x52, 0x54, 0, 1, 2, 3};
constexpr uint8_t kBroadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
using Bytes = std::vector<uint8_t>;

void add16(Bytes& out, unsigned v) { out.push_back(v >> 8), out.push_back(v); }
void add32(Bytes& out, uint32_t v) { add16(out, v >> 16), add16(out, v & 0xffff); }
unsigned get16(const Bytes& in, size_t at) { return in.at(at) << 8 | in.at(at + 1); }
uint32_t get32(const Bytes& in, size_t at) { return get16(in, at) << 16 | get16(in, at + 2); }

Bytes ethernet(const uint8_t* to, unsigned type, const Bytes& body) {
  Bytes out(to, to + 6);
  out.insert(out.end(), kGuestMac, kGuestMac + 6);
  add16(out, type);
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

Bytes udp_packet(uint32_t from, uint32_t to, unsigned from_port, unsigned to_port, const Bytes& body) {
  Bytes ip{0x45, 0};
  add16(ip, 28 + body.size());
  add32(ip, 0);
  ip.push_back(64), ip.push_back(17);
  add16(ip, 0);
  add32(ip, from), add32(ip, to);
  unsigned sum = 0;
  for (size_t i = 0; i < 20; i += 2) sum += get16(ip, i);
  sum = ~((sum & 0xffff) + (sum >> 16)) & 0xffff;
  ip[10] = sum >> 8, ip[11] = sum;
  add16(ip, from_port), add16(ip, to_port), add16(ip, 8 + body.size()), add16(ip, 0);
  ip.insert(ip.end(), body.begin(), body.end());
  return ip;
}

class UserTest : public testing::Test {
 protected:
  void make(UserConfig config = {}) {
    auto made = User::create(config, *loop);
    ASSERT_TRUE(made) << made.error().message;
    user = std::move(*made);
    user->set_receiver([this](std::span<const std::byte> frame) {
      if (full) return false;
      auto* p = reinterpret_cast<const uint8_t*>(frame.data());
      received.emplace_back(p, p + frame.size());
      return true;
    });
  }
  void send(Bytes frame) {
    // In two parts, as a driver with a separate header buffer would.
    iovec parts[] = {{frame.data(), 14}, {frame.data() + 14, frame.size() - 14}};
    user->send(parts);
  }
  // The first frame that `is` says yes to.
  Bytes await(const std::function<bool(const Bytes&)>& is) {
    for (int i = 0; i < 500; ++i) {
      for (auto& frame : received)
        if (is(frame)) return std::exchange(frame, Bytes(64));
      loop->step(20);
    }
    ADD_FAILURE() << "no such frame came";
    return Bytes(600);
  }
  Bytes dhcp(uint8_t type) {
    Bytes body{1, 1, 6, 0};
    add32(body, 0x12345678);
    body.resize(28);
    body.insert(body.end(), kGuestMac, kGuestMac + 6);
    body.resize(236);
    add32(body, 0x63825363);
    body.insert(body.end(), {53, 1, type, 255});
    body.resize(300);
    received.clear();
    send(ethernet(kBroadcast, ETHERTYPE_IP, udp_packet(0, 0xffffffff, 68, 67, body)));
    return await([](const Bytes& f) { return f.size() > 282 && get16(f, 12) == ETHERTYPE_IP && f[23] == 17 && get16(f, 36) == 68; });
  }
  // The guest says where it is, which libslirp must know before it can send there.
  void announce() {
    Bytes arp;
    add16(arp, 1), add16(arp, 0x800), arp.push_back(6), arp.push_back(4), add16(arp, 1);
    arp.insert(arp.end(), kGuestMac, kGuestMac + 6);
    add32(arp, 0x0a00020f);
    arp.resize(arp.size() + 6);
    add32(arp, 0x0a000202);
    send(ethernet(kBroadcast, ETHERTYPE_ARP, arp));
  }

  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  std::unique_ptr<User> user;
  std::vector<Bytes> received;
  bool full = false;
};

TEST_F(UserTest, DhcpGivesTheGuestItsAddress) {
  make();
  Bytes offer = dhcp(1);
  constexpr size_t kBootp = 14 + 20 + 8;
  EXPECT_EQ(get32(offer, kBootp + 16), 0x0a00020fu);  // yiaddr
  std::map<int, uint32_t> options;
  for (size_t i = kBootp + 240; i + 1 < offer.size() && offer[i] != 255; i += 2 + offer[i + 1])
    if (offer[i + 1] == 4) options[offer[i]] = get32(offer, i + 2);
  EXPECT_EQ(options[1], 0xffffff00u);
  EXPECT_EQ(options[3], 0x0a000202u);
  EXPECT_EQ(options[6], 0x0a000203u);
}

TEST_F(UserTest, RouterAnswersArp) {
  make();
  announce();
  Bytes reply = await([](const Bytes& f) { return f.size() >= 42 && get16(f, 12) == ETHERTYPE_ARP && get16(f, 20) == 2; });
  EXPECT_EQ(get32(reply, 28), 0x0a000202u);
}

TEST_F(UserTest, DatagramsGoOutAndBack) {
  OwnedFd server(socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof address;
  ASSERT_EQ(bind(server.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  getsockname(server.get(), reinterpret_cast<sockaddr*>(&address), &length);
  make();
  announce();
  Bytes router = await([](const Bytes& f) { return f.size() >= 42 && get16(f, 12) == ETHERTYPE_ARP && get16(f, 20) == 2; });
  send(ethernet(&router[6], ETHERTYPE_IP, udp_packet(0x0a00020f, 0x0a000202, 5555, ntohs(address.sin_port), {'h', 'i'})));
  loop->step(0);
  char text[8];
  sockaddr_in peer;
  length = sizeof peer;
  ASSERT_EQ(recvfrom(server.get(), text, sizeof text, 0, reinterpret_cast<sockaddr*>(&peer), &length), 2);
  sendto(server.get(), "yo!", 3, 0, reinterpret_cast<sockaddr*>(&peer), length);
  Bytes answer = await([](const Bytes& f) { return f.size() >= 45 && get16(f, 12) == ETHERTYPE_IP && f[23] == 17 && get16(f, 36) == 5555; });
  EXPECT_EQ(memcmp(&answer[42], "yo!", 3), 0);
}

TEST_F(UserTest, FramesWaitWhileTheGuestHasNoRoom) {
  make();
  full = true;
  announce();
  for (int i = 0; i < 5; ++i) loop->step(10);
  EXPECT_TRUE(received.empty());
  full = false;
  user->resume();
  await([](const Bytes& f) { return f.size() >= 42 && get16(f, 12) == ETHERTYPE_ARP && get16(f, 20) == 2; });
}

TEST_F(UserTest, HostForwardReachesTheGuest) {
  // Port 0 cannot be asked for its number through libslirp, so find a free one first.
  OwnedFd probe(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof address;
  ASSERT_EQ(bind(probe.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  getsockname(probe.get(), reinterpret_cast<sockaddr*>(&address), &length);
  probe.reset();
  HostForward forward{.host_address = "127.0.0.1", .host_port = ntohs(address.sin_port), .guest_port = 22};
  make({.restricted = true, .forwards = {forward}});
  announce();
  OwnedFd client(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  ASSERT_TRUE(connect(client.get(), reinterpret_cast<sockaddr*>(&address), length) == 0 || errno == EINPROGRESS);
  Bytes syn = await([](const Bytes& f) { return f.size() >= 54 && get16(f, 12) == ETHERTYPE_IP && f[23] == IPPROTO_TCP; });
  EXPECT_EQ(get32(syn, 30), 0x0a00020fu);
  EXPECT_EQ(get16(syn, 36), 22u);
  EXPECT_EQ(syn[47] & 0x12, 0x02);  // SYN without ACK

  auto again = user->add_forward(forward);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().kind, ErrorKind::kBusy);
  EXPECT_NE(again.error().message.find("port already bound"), std::string::npos) << again.error().message;
  EXPECT_TRUE(user->remove_forward(forward));
  EXPECT_FALSE(user->remove_forward(forward));
}

TEST_F(UserTest, MistakesAreNamed) {
  EXPECT_EQ(User::create({.network = "10.0.2.7"}, *loop).error().message,
            "network user net=10.0.2.7: must be an IPv4 network ending in .0");
  EXPECT_EQ(User::create({.forwards = {{.host_address = "local", .host_port = 1, .guest_port = 2}}}, *loop).error().message,
            "network user: hostfwd tcp:local:1: 'local' is not an IPv4 address");
  EXPECT_EQ(User::create({.forwards = {{.host_port = 1}}}, *loop).error().message,
            "network user: hostfwd tcp::1: the guest's port is missing");
}

}  // namespace
}  // namespace vireo::network
