// SPDX-License-Identifier: Apache-2.0
#include "virtio/net.h"

#include <gtest/gtest.h>

#include "virtio/guest_fake.h"

namespace vireo::virtio {
namespace {

constexpr Mac kMac = {0x52, 0x54, 0, 1, 2, 3};

class FakeWire final : public network::Backend {
 public:
  struct Controls {
    bool header = false;
    network::Offloads accepted;
    std::vector<std::string> sent;
    Receiver receiver;
    unsigned resumes = 0;
  };
  explicit FakeWire(Controls& c) : c(c) {}
  ~FakeWire() override { c.receiver = {}; }
  bool vnet_header() const override { return c.header; }
  network::Offloads supported_offloads() const override { return {.checksum = true, .tso4 = true, .tso6 = true, .ecn = true}; }
  void set_offloads(const network::Offloads& accepted) override { c.accepted = accepted; }
  void send(std::span<const iovec> frame) override {
    std::string f;
    for (auto& part : frame) f.append(static_cast<char*>(part.iov_base), part.iov_len);
    c.sent.push_back(f);
  }
  void set_receiver(Receiver receiver) override { c.receiver = std::move(receiver); }
  void resume() override { ++c.resumes; }

 private:
  Controls& c;
};

class NetTest : public testing::TestWithParam<bool> {
 protected:
  void make(NetConfig config = {.mac = kMac}) {
    auto net = Net::create(config, {*loop}, std::make_unique<FakeWire>(wire));
    ASSERT_TRUE(net);
    device = net->get();
    guest = std::make_unique<FakeGuest>(std::move(*net), *memory, heap, *loop);
  }
  void start(uint64_t without = 0) {
    guest->start(guest->offered() & ~without & ~(GetParam() ? 0 : bit(VIRTIO_F_RING_PACKED)));
  }
  bool receive(const std::string& frame) {
    bool taken = false;
    loop->call([&] { taken = wire.receiver(std::as_bytes(std::span(frame))); });
    guest->settle();
    return taken;
  }
  std::string frame(const char* to, size_t size = 60, char fill = 'f') {
    std::string f(size, fill);
    memcpy(f.data(), to, 6);
    return f;
  }
  int command(uint8_t cls, uint8_t cmd, const std::string& data) {
    Buffer ack = guest->queues[2]->string("\xee", true);
    guest->request(2, {guest->queues[2]->string({static_cast<char>(cls), static_cast<char>(cmd)}), guest->queues[2]->string(data), ack});
    return guest->queues[2]->text(ack.address, 1)[0];
  }
  void post_buffers(unsigned count, uint32_t size) {
    for (unsigned i = 0; i < count; ++i) {
      Buffer b = guest->queues[0]->room(size);
      buffers[guest->queues[0]->add({b})] = b;
    }
    guest->ring(0);
    guest->settle();
  }
  // The used receive buffers as one string each.
  std::vector<std::string> collect() {
    std::vector<std::string> out;
    while (auto used = guest->queues[0]->used()) out.push_back(guest->queues[0]->text(buffers.at(used->id).address, used->length));
    return out;
  }

  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  std::unique_ptr<GuestMemory> memory = test_memory();
  FakeHeap heap{*memory};
  FakeWire::Controls wire;
  Net* device = nullptr;
  std::unique_ptr<FakeGuest> guest;
  std::map<uint16_t, Buffer> buffers;
};

const char kToUs[] = "\x52\x54\x00\x01\x02\x03", kToOther[] = "\x52\x54\x00\x09\x09\x09", kToAll[] = "\xff\xff\xff\xff\xff\xff",
           kToGroup[] = "\x01\x00\x5e\x01\x02\x03";

TEST_P(NetTest, ConfigSpaceAndFeatures) {
  make({.mac = kMac, .mtu = 1400});
  EXPECT_EQ(guest->get(VIRTIO_MMIO_DEVICE_ID), 1u);
  EXPECT_EQ(guest->config<Mac>(0), kMac);
  EXPECT_EQ(guest->config<uint16_t>(6), VIRTIO_NET_S_LINK_UP);
  EXPECT_EQ(guest->config<uint16_t>(10), 1400);
  EXPECT_TRUE(guest->offered() & bit(VIRTIO_NET_F_MTU));
  EXPECT_FALSE(guest->offered() & bit(VIRTIO_NET_F_CSUM));
  wire.header = true;
  EXPECT_TRUE(guest->offered() & bit(VIRTIO_NET_F_CSUM));
}

TEST_P(NetTest, SendsFramesWithoutTheHeader) {
  make();
  start();
  std::string f = frame(kToOther);
  guest->request(1, {guest->queues[1]->string(std::string(12, 0)), guest->queues[1]->string(f)});
  guest->request(1, {guest->queues[1]->string(std::string(12, 0) + f)});
  EXPECT_EQ(wire.sent, (std::vector{f, f}));
  guest->request(1, {guest->queues[1]->string("short")});
  guest->request(1, {guest->queues[1]->string(std::string(100000, 'x'))});
  EXPECT_EQ(wire.sent.size(), 2u);
}

TEST_P(NetTest, HeaderGoesThroughWhereTheWireHasIt) {
  wire.header = true;
  make();
  start();
  EXPECT_TRUE(wire.accepted.checksum && wire.accepted.tso4 && wire.accepted.tso6 && wire.accepted.ecn);
  std::string f = "HHHHHHHHHHHH" + frame(kToOther);
  guest->request(1, {guest->queues[1]->string(f)});
  EXPECT_EQ(wire.sent, std::vector{f});
  post_buffers(1, 2000);
  EXPECT_TRUE(receive("\x01hhhhhhhhh\xff\xff" + frame(kToUs)));
  EXPECT_EQ(collect(), std::vector{"\x01hhhhhhhhh" + std::string("\x01\x00", 2) + frame(kToUs)});
}

// 5.1.6.4.1: without GUEST_CSUM "the device MUST set flags to zero", without GUEST_TSO4 it "MUST NOT set gso_type to VIRTIO_NET_HDR_GSO_TCPV4".
TEST_P(NetTest, DriverSeesNoOffloadThatItDidNotAccept) {
  wire.header = true;
  make();
  start(bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_TSO4) | bit(VIRTIO_NET_F_GUEST_TSO6) | bit(VIRTIO_NET_F_GUEST_ECN) |
        bit(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS));
  post_buffers(4, 2000);
  auto header = [](char flags, char gso_type) { return std::string{flags, gso_type} + std::string(10, 0); };
  EXPECT_TRUE(receive(header(VIRTIO_NET_HDR_F_DATA_VALID, 0) + frame(kToUs)));
  EXPECT_EQ(collect(), std::vector{std::string(10, 0) + std::string("\x01\x00", 2) + frame(kToUs)});
  EXPECT_TRUE(receive(header(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0) + frame(kToUs)));
  EXPECT_TRUE(receive(header(0, VIRTIO_NET_HDR_GSO_TCPV4) + frame(kToUs)));
  EXPECT_TRUE(receive(header(0, static_cast<char>(VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN)) + frame(kToUs)));
  EXPECT_TRUE(collect().empty());
}

TEST_P(NetTest, ManyFramesInOneRing) {
  make({.mac = kMac, .queue_size = 1024});
  guest->negotiate(guest->offered() & ~(GetParam() ? 0 : bit(VIRTIO_F_RING_PACKED)));
  guest->set_up_queues(1024);
  guest->driver_ok();
  guest->settle();
  Buffer f = guest->queues[1]->string(std::string(80, 0));
  for (int i = 0; i < 700; ++i) guest->queues[1]->add({f});
  guest->ring(1);
  for (int i = 0; i < 700; ++i) guest->wait_used(1);
  EXPECT_EQ(wire.sent.size(), 700u);
}

TEST_P(NetTest, ReceivesIntoOneBuffer) {
  make();
  start();
  post_buffers(2, 2000);
  guest->set(VIRTIO_MMIO_INTERRUPT_ACK, 1);
  EXPECT_TRUE(receive(frame(kToUs, 300)));
  EXPECT_EQ(collect(), std::vector{std::string(10, 0) + std::string("\x01\x00", 2) + frame(kToUs, 300)});
  EXPECT_TRUE(guest->irq.level);
}

TEST_P(NetTest, LargeFrameIsSpreadOverMergeableBuffers) {
  make();
  start();
  post_buffers(4, 100);
  std::string f = frame(kToUs, 250);
  for (size_t i = 6; i < f.size(); ++i) f[i] = static_cast<char>(i);
  EXPECT_TRUE(receive(f));
  auto got = collect();
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got[0], std::string(10, 0) + std::string("\x03\x00", 2) + f.substr(0, 88));
  EXPECT_EQ(got[1] + got[2], f.substr(88));
  EXPECT_TRUE(receive(frame(kToUs, 88)));  // the fourth is still there
  EXPECT_EQ(collect().size(), 1u);
}

TEST_P(NetTest, FrameTooLargeForAPlainBufferIsDropped) {
  make();
  start(bit(VIRTIO_NET_F_MRG_RXBUF));
  post_buffers(4, 100);
  EXPECT_TRUE(receive(frame(kToUs, 250)));
  EXPECT_TRUE(collect().empty());
  EXPECT_TRUE(receive(frame(kToUs, 88)));
  EXPECT_EQ(collect().size(), 1u);
}

TEST_P(NetTest, WithoutBuffersTheWireWaits) {
  make();
  start();
  EXPECT_FALSE(receive(frame(kToUs)));
  post_buffers(1, 40);
  EXPECT_FALSE(receive(frame(kToUs)));  // not enough for all of it
  unsigned before = wire.resumes;
  guest->queues[0]->must_notify();  // about the buffer that is there
  Buffer more = guest->queues[0]->room(40);
  buffers[guest->queues[0]->add({more})] = more;
  EXPECT_TRUE(guest->queues[0]->must_notify());
  guest->ring(0);
  guest->settle();
  EXPECT_GT(wire.resumes, before);
  EXPECT_TRUE(receive(frame(kToUs)));
  EXPECT_EQ(collect().size(), 2u);
}

TEST_P(NetTest, BuffersHeldForALargeFrameSurviveAPause) {
  make();
  start();
  post_buffers(1, 40);
  EXPECT_FALSE(receive(frame(kToUs)));
  guest->mmio->pause();
  guest->mmio->resume();
  guest->settle();
  post_buffers(1, 40);
  EXPECT_TRUE(receive(frame(kToUs)));
  EXPECT_EQ(collect().size(), 2u);
}

TEST_P(NetTest, BufferWithoutRoomForTheHeaderNeedsReset) {
  make();
  start();
  post_buffers(1, 8);
  EXPECT_TRUE(receive(frame(kToUs)));
  EXPECT_TRUE(guest->needs_reset());
}

TEST_P(NetTest, FilterFollowsTheDriver) {
  make();
  start();
  post_buffers(30, 200);
  auto passes = [&](const char* to) {
    EXPECT_TRUE(receive(frame(to)));
    return !collect().empty();
  };
  EXPECT_TRUE(passes(kToOther));
  EXPECT_EQ(command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, std::string(1, 0)), VIRTIO_NET_OK);
  EXPECT_FALSE(passes(kToOther));
  EXPECT_TRUE(passes(kToUs));
  EXPECT_TRUE(passes(kToAll));
  EXPECT_FALSE(passes(kToGroup));
  EXPECT_EQ(command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, "\x01"), VIRTIO_NET_OK);
  EXPECT_TRUE(passes(kToGroup));
  EXPECT_EQ(command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, std::string(1, 0)), VIRTIO_NET_OK);
  std::string table = std::string("\x01\0\0\0", 4) + std::string(kToOther, 6) + std::string("\x01\0\0\0", 4) + std::string(kToGroup, 6);
  EXPECT_EQ(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table), VIRTIO_NET_OK);
  EXPECT_TRUE(passes(kToOther));
  EXPECT_TRUE(passes(kToGroup));
  EXPECT_EQ(command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOBCAST, "\x01"), VIRTIO_NET_OK);
  EXPECT_FALSE(passes(kToAll));
  std::string new_mac("\x02\x00\x00\x00\x00\x07", 6);
  EXPECT_EQ(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, new_mac), VIRTIO_NET_OK);
  EXPECT_FALSE(passes(kToUs));
  EXPECT_TRUE(passes(new_mac.data()));
  EXPECT_EQ(guest->config<uint8_t>(5), 7);
  guest->set(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(guest->config<Mac>(0), kMac);
}

TEST_P(NetTest, VlanFilterKnowsTags) {
  make();
  start();
  post_buffers(9, 200);
  std::string tagged = frame(kToUs);
  tagged.replace(12, 4, std::string("\x81\x00\x20\x05", 4));
  EXPECT_TRUE(receive(tagged));
  EXPECT_EQ(collect().size(), 1u);  // 5.1.6.5.1: promiscuous mode takes all
  EXPECT_EQ(command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, std::string(1, 0)), VIRTIO_NET_OK);
  EXPECT_TRUE(receive(tagged));
  EXPECT_TRUE(collect().empty());
  EXPECT_EQ(command(VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, std::string("\x05\x00", 2)), VIRTIO_NET_OK);
  EXPECT_TRUE(receive(tagged));
  EXPECT_EQ(collect().size(), 1u);
  EXPECT_EQ(command(VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, std::string("\x05\x10", 2)), VIRTIO_NET_ERR);
  tagged[15] = 6;
  EXPECT_TRUE(receive(tagged));
  EXPECT_TRUE(collect().empty());
  EXPECT_EQ(command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, "\x01"), VIRTIO_NET_OK);
  EXPECT_TRUE(receive(tagged));
  EXPECT_EQ(collect().size(), 1u);
}

// 5.1.6.5, struct virtio_net_ctrl: u8 ack; u8 command-specific-result[].
TEST_P(NetTest, AnswerIsTheFirstOfTheWritableBytes) {
  make();
  start();
  Buffer answer = guest->queues[2]->string("\xee\xee\xee\xee", true);
  auto used = guest->request(2, {guest->queues[2]->string(std::string("\0\0\0", 3)), answer});
  EXPECT_EQ(used.length, 1u);
  EXPECT_EQ(guest->queues[2]->text(answer.address, 4), std::string("\0\xee\xee\xee", 4));
}

TEST_P(NetTest, BadCommandsAreRefused) {
  make();
  start();
  EXPECT_EQ(command(99, 0, "x"), VIRTIO_NET_ERR);
  EXPECT_EQ(command(VIRTIO_NET_CTRL_RX, 77, "x"), VIRTIO_NET_ERR);
  EXPECT_EQ(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, std::string(4, '\xff')), VIRTIO_NET_ERR);
  EXPECT_EQ(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, "abc"), VIRTIO_NET_ERR);
  EXPECT_EQ(command(VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, std::string(8, 0)), VIRTIO_NET_ERR);  // not negotiated
  EXPECT_EQ(command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, std::string("\x01\x00", 2)), VIRTIO_NET_ERR);
  EXPECT_FALSE(guest->needs_reset());
}

TEST_P(NetTest, GuestOffloadsCanBeSwitched) {
  wire.header = true;
  make();
  start();
  uint64_t only_checksum = bit(VIRTIO_NET_F_GUEST_CSUM);
  EXPECT_EQ(command(VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, std::string(reinterpret_cast<char*>(&only_checksum), 8)), VIRTIO_NET_OK);
  EXPECT_TRUE(wire.accepted.checksum);
  EXPECT_FALSE(wire.accepted.tso4);
  uint64_t unknown = bit(40);
  EXPECT_EQ(command(VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, std::string(reinterpret_cast<char*>(&unknown), 8)), VIRTIO_NET_ERR);
}

TEST_P(NetTest, LinkChangesAreToldAndStopTraffic) {
  make();
  start();
  post_buffers(2, 200);
  device->set_link(false);
  EXPECT_TRUE(guest->get(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
  EXPECT_EQ(guest->config<uint16_t>(6), 0);
  EXPECT_TRUE(receive(frame(kToUs)));
  EXPECT_TRUE(collect().empty());
  guest->request(1, {guest->queues[1]->string(std::string(80, 0))});
  EXPECT_TRUE(wire.sent.empty());
  device->set_link(true);
  EXPECT_TRUE(receive(frame(kToUs)));
  EXPECT_EQ(collect().size(), 1u);
}

TEST_P(NetTest, ResetUnhooksTheWire) {
  make();
  start();
  EXPECT_TRUE(wire.receiver);
  guest->set(VIRTIO_MMIO_STATUS, 0);
  EXPECT_FALSE(wire.receiver);
}

TEST(NetCreate, MistakesAreNamed) {
  auto loop = std::move(*EventLoop::create());
  FakeWire::Controls wire;
  auto make = [&](NetConfig config) { return Net::create(config, {*loop}, std::make_unique<FakeWire>(wire)).error().message; };
  EXPECT_EQ(make({.mac = {1, 2, 3, 4, 5, 6}}), "network mac: a card's address cannot be a multicast address");
  EXPECT_EQ(make({}), "network mac: missing");
  EXPECT_EQ(make({.mac = kMac, .mtu = 10}), "network mtu=10: at least 68");
}

INSTANTIATE_TEST_SUITE_P(Formats, NetTest, testing::Bool(), [](const auto& info) { return info.param ? "Packed" : "Split"; });

}  // namespace
}  // namespace vireo::virtio
