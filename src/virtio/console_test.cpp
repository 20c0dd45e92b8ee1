// SPDX-License-Identifier: Apache-2.0
#include "virtio/console.h"

#include <gtest/gtest.h>

#include "virtio/guest_fake.h"

namespace vireo::virtio {
namespace {

class FakeEnd final : public ConsolePort {
 public:
  struct Controls {
    std::string output, input;
    size_t room = SIZE_MAX;
    bool open = false, open_elsewhere = false;
    EventLoop* loop = nullptr;
    std::function<void()> readable, writable;
  };
  explicit FakeEnd(Controls& c) : c(c) {}
  size_t write(std::span<const std::byte> data) override {
    size_t n = std::min(data.size(), c.room);
    c.room -= n;
    c.output.append(reinterpret_cast<const char*>(data.data()), n);
    return n;
  }
  size_t read(std::span<std::byte> data) override {
    size_t n = std::min(data.size(), c.input.size());
    memcpy(data.data(), c.input.data(), n);
    c.input.erase(0, n);
    return n;
  }
  void set_callbacks(std::function<void()> readable, std::function<void()> writable) override {
    c.readable = std::move(readable), c.writable = std::move(writable);
  }
  void guest_open(bool open) override {
    c.open = open;
    c.open_elsewhere |= !c.loop->on_loop_thread();
  }

 private:
  Controls& c;
};

class ConsoleTest : public testing::Test {
 protected:
  void make(ConsoleConfig config) {
    std::vector<std::unique_ptr<ConsolePort>> host;
    for (size_t i = 0; i < config.ports.size(); ++i) ends[i].loop = loop.get(), host.push_back(std::make_unique<FakeEnd>(ends[i]));
    auto made = Console::create(config, {*loop}, std::move(host));
    ASSERT_TRUE(made);
    console = made->get();
    guest = std::make_unique<FakeGuest>(std::move(*made), *memory, heap, *loop);
    guest->start();
  }
  void send(unsigned queue, const std::vector<std::string>& parts) {
    std::vector<Buffer> buffers;
    for (auto& p : parts) buffers.push_back(guest->queues[queue]->string(p));
    guest->queues[queue]->add(buffers);
    guest->ring(queue);
    guest->settle();
  }
  void control(uint32_t id, uint16_t event, uint16_t value) {
    virtio_console_control m{id, event, value};
    send(3, {std::string(reinterpret_cast<char*>(&m), sizeof m)});
    EXPECT_TRUE(guest->queues[3]->used());
  }
  Buffer post(unsigned queue, uint32_t size) {
    Buffer b = guest->queues[queue]->room(size);
    posted[{queue, guest->queues[queue]->add({b})}] = b;
    guest->ring(queue);
    guest->settle();
    return b;
  }
  std::vector<std::string> received(unsigned queue) {
    std::vector<std::string> out;
    guest->settle();
    while (auto used = guest->queues[queue]->used())
      out.push_back(guest->queues[queue]->text(posted.at({queue, used->id}).address, used->length));
    return out;
  }
  static std::string message(uint32_t id, uint16_t event, uint16_t value, const std::string& more = "") {
    virtio_console_control m{id, event, value};
    return std::string(reinterpret_cast<char*>(&m), sizeof m) + more;
  }
  ConsoleConfig two_ports() { return {.ports = {{"", true}, {"org.vireo.agent", false}}, .columns = 80, .rows = 25}; }

  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  std::unique_ptr<GuestMemory> memory = test_memory();
  FakeHeap heap{*memory};
  FakeEnd::Controls ends[4];
  Console* console = nullptr;
  std::unique_ptr<FakeGuest> guest;
  std::map<std::pair<unsigned, uint16_t>, Buffer> posted;
};

TEST_F(ConsoleTest, SingleConsoleCarriesBytesBothWays) {
  make({});
  EXPECT_EQ(guest->queues.size(), 2u);
  EXPECT_FALSE(guest->offered() >> VIRTIO_CONSOLE_F_MULTIPORT & 1);
  send(1, {"hello ", "world"});
  EXPECT_EQ(ends[0].output, "hello world");
  EXPECT_TRUE(guest->queues[1]->used());
  ends[0].input = "typed";
  ends[0].readable();
  guest->settle();
  EXPECT_EQ(ends[0].input, "typed");  // no buffer yet
  post(0, 3);
  post(0, 16);
  EXPECT_EQ(received(0), (std::vector<std::string>{"typ", "ed"}));
  post(0, 16);
  EXPECT_TRUE(received(0).empty());
  ends[0].input = "x";
  ends[0].readable();
  EXPECT_EQ(received(0), std::vector<std::string>{"x"});
}

TEST_F(ConsoleTest, FullHostHoldsTheGuestBack) {
  make({});
  ends[0].room = 4;
  send(1, {"abc", "def"});
  send(1, {"ghi"});
  EXPECT_EQ(ends[0].output, "abcd");
  EXPECT_FALSE(guest->queues[1]->used());
  ends[0].room = 100;
  ends[0].writable();
  guest->settle();
  EXPECT_EQ(ends[0].output, "abcdefghi");
  EXPECT_TRUE(guest->queues[1]->used());
  EXPECT_TRUE(guest->queues[1]->used());
}

TEST_F(ConsoleTest, ResetGivesHeldBuffersBack) {
  make({});
  ends[0].room = 1;
  send(1, {"abc"});
  guest->set(VIRTIO_MMIO_STATUS, 0);
  EXPECT_TRUE(guest->queues[1]->used());
  EXPECT_FALSE(ends[0].readable);
}

TEST_F(ConsoleTest, SizeIsInConfigSpace) {
  make({.columns = 100, .rows = 40});
  EXPECT_EQ(guest->config<uint16_t>(0), 100);
  EXPECT_EQ(guest->config<uint16_t>(2), 40);
  uint32_t generation = guest->get(VIRTIO_MMIO_CONFIG_GENERATION);
  console->resize(120, 50);
  EXPECT_TRUE(guest->get(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
  EXPECT_EQ(guest->config<uint16_t>(0), 120);
  EXPECT_NE(guest->get(VIRTIO_MMIO_CONFIG_GENERATION), generation);
}

TEST_F(ConsoleTest, SizeIsToldOnceMoreWhenTheDriverHasBegunToWrite) {
  make({.columns = 100, .rows = 40});
  for (int i = 0; i < 3; ++i) loop->step(150);
  EXPECT_FALSE(guest->get(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
  send(1, {"a"});
  for (int i = 0; i < 20 && !(guest->get(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG); ++i) loop->step(100);
  EXPECT_TRUE(guest->get(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
}

TEST_F(ConsoleTest, PortsAreIntroduced) {
  make(two_ports());
  EXPECT_EQ(guest->queues.size(), 6u);
  for (int i = 0; i < 12; ++i) post(2, 64);
  control(~0u, VIRTIO_CONSOLE_DEVICE_READY, 1);
  EXPECT_EQ(received(2), (std::vector{message(0, VIRTIO_CONSOLE_PORT_ADD, 1), message(1, VIRTIO_CONSOLE_PORT_ADD, 1)}));
  control(0, VIRTIO_CONSOLE_PORT_READY, 1);
  EXPECT_EQ(received(2), (std::vector{message(0, VIRTIO_CONSOLE_CONSOLE_PORT, 1),
                                      message(0, VIRTIO_CONSOLE_RESIZE, 1, std::string("\x50\x00\x19\x00", 4)),
                                      message(0, VIRTIO_CONSOLE_PORT_OPEN, 1)}));
  control(1, VIRTIO_CONSOLE_PORT_READY, 1);
  EXPECT_EQ(received(2), (std::vector{message(1, VIRTIO_CONSOLE_PORT_NAME, 1, "org.vireo.agent"),
                                      message(1, VIRTIO_CONSOLE_PORT_OPEN, 1)}));
  console->set_connected(1, false);
  EXPECT_EQ(received(2), std::vector{message(1, VIRTIO_CONSOLE_PORT_OPEN, 0)});
}

// 5.3.2: with F_MULTIPORT the control queues are 2 and 3, however few ports there are.
TEST_F(ConsoleTest, OnePortWithANameHasControlQueues) {
  make({.ports = {{"org.vireo.agent", false}}});
  EXPECT_TRUE(guest->offered() >> VIRTIO_CONSOLE_F_MULTIPORT & 1);
  ASSERT_EQ(guest->queues.size(), 4u);
  for (int i = 0; i < 4; ++i) post(2, 64);
  control(~0u, VIRTIO_CONSOLE_DEVICE_READY, 1);
  control(0, VIRTIO_CONSOLE_PORT_READY, 1);
  EXPECT_EQ(received(2), (std::vector{message(0, VIRTIO_CONSOLE_PORT_ADD, 1), message(0, VIRTIO_CONSOLE_PORT_NAME, 1, "org.vireo.agent"),
                                      message(0, VIRTIO_CONSOLE_PORT_OPEN, 1)}));
  control(0, VIRTIO_CONSOLE_PORT_OPEN, 1);
  send(1, {"out"});
  EXPECT_EQ(ends[0].output, "out");
}

TEST_F(ConsoleTest, ControlMessagesWaitForBuffers) {
  make(two_ports());
  control(~0u, VIRTIO_CONSOLE_DEVICE_READY, 1);
  post(2, 64);
  EXPECT_EQ(received(2).size(), 1u);
  post(2, 64);
  EXPECT_EQ(received(2).size(), 1u);
  for (int i = 0; i < 2000; ++i) control(~0u, VIRTIO_CONSOLE_DEVICE_READY, 1);  // bounded
}

TEST_F(ConsoleTest, SecondPortCarriesDataWhenOpen) {
  make(two_ports());
  ends[1].input = "in";
  post(4, 16);
  EXPECT_TRUE(received(4).empty());
  control(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
  EXPECT_TRUE(ends[1].open);
  EXPECT_EQ(received(4), std::vector<std::string>{"in"});
  send(5, {"out"});
  EXPECT_EQ(ends[1].output, "out");
  control(1, VIRTIO_CONSOLE_PORT_OPEN, 0);
  EXPECT_FALSE(ends[1].open);
  control(77, VIRTIO_CONSOLE_PORT_OPEN, 1);
  control(1, 999, 1);
  EXPECT_FALSE(guest->needs_reset());
  control(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
  EXPECT_TRUE(ends[1].open);
  guest->set(VIRTIO_MMIO_STATUS, 0);
  EXPECT_FALSE(ends[1].open);
  EXPECT_FALSE(ends[1].open_elsewhere) << "console_port.h: everything is for the loop";
}

}  // namespace
}  // namespace vireo::virtio
