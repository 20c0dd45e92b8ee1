// SPDX-License-Identifier: Apache-2.0
// Expected values: virtio 1.3, 4.2.2 and 3.1.1.
#include "virtio/mmio.h"

#include <gtest/gtest.h>

#include "virtio/guest_fake.h"

namespace vireo::virtio {
namespace {

class EchoDevice final : public Device {
 public:
  struct Controls {
    uint64_t config = 0x1122334455667788;
    bool active = false;
    unsigned activations = 0;
    uint64_t accepted = 0;
    std::vector<unsigned> rung;
    std::vector<Queue*> queues;
    Interrupt* interrupt = nullptr;
  };
  explicit EchoDevice(Controls& c) : c(c) {}
  uint16_t type() const override { return 42; }
  uint64_t features() const override { return 0x5; }
  std::vector<uint16_t> queue_sizes() const override { return {8, 16}; }
  void read_config(uint64_t offset, std::span<std::byte> data) override {
    for (size_t i = 0; i < data.size() && offset + i < 8; ++i) data[i] = static_cast<std::byte>(c.config >> (8 * (offset + i)));
  }
  void activate(uint64_t accepted, std::span<Queue* const> queues, Interrupt& interrupt) override {
    c.active = true;
    ++c.activations;
    c.accepted = accepted;
    c.queues.assign(queues.begin(), queues.end());
    c.interrupt = &interrupt;
  }
  void notify(unsigned index) override { c.rung.push_back(index); }
  void deactivate() override { c.active = false; }
  void fields(Archive& archive) override {}

 private:
  Controls& c;
};

class MmioTest : public testing::Test {
 protected:
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  std::unique_ptr<GuestMemory> memory = test_memory();
  FakeHeap heap{*memory};
  EchoDevice::Controls device;
  FakeGuest guest{std::make_unique<EchoDevice>(device), *memory, heap, *loop};
};

TEST_F(MmioTest, IdentityRegisters) {
  EXPECT_EQ(guest.get(0x000), 0x74726976u);
  EXPECT_EQ(guest.get(0x004), 2u);
  EXPECT_EQ(guest.get(0x008), 42u);
  EXPECT_EQ(guest.get(0x070), 0u);
  EXPECT_EQ(guest.get(0x0b0), 0xffffffffu);  // length of a shared memory region that is not there
  EXPECT_EQ(guest.get(0x0b4), 0xffffffffu);
}

TEST_F(MmioTest, FeaturesOkNeedsASubsetWithVersion1) {
  EXPECT_FALSE(guest.negotiate(0x5));
  EXPECT_FALSE(guest.negotiate(1ull << VIRTIO_F_VERSION_1 | 0x2));
  EXPECT_TRUE(guest.negotiate(1ull << VIRTIO_F_VERSION_1 | 0x4));
  guest.driver_ok();
  EXPECT_EQ(device.accepted, 1ull << VIRTIO_F_VERSION_1 | 0x4);
}

TEST_F(MmioTest, DriverOkWithoutFeaturesOkActivatesNothing) {
  guest.negotiate(0);
  guest.set(VIRTIO_MMIO_STATUS, 0xf & ~VIRTIO_CONFIG_S_FEATURES_OK);
  EXPECT_FALSE(device.active);
}

TEST_F(MmioTest, QueuesReachTheDeviceAndGoWithReset) {
  guest.negotiate(guest.offered());
  guest.set_up_queues();
  guest.set(VIRTIO_MMIO_QUEUE_SEL, 1);
  EXPECT_EQ(guest.get(VIRTIO_MMIO_QUEUE_NUM_MAX), 16u);
  guest.set(VIRTIO_MMIO_QUEUE_READY, 0);
  guest.driver_ok();
  ASSERT_EQ(device.queues.size(), 2u);
  ASSERT_TRUE(device.queues[0]);
  EXPECT_EQ(device.queues[0]->size(), 8);
  EXPECT_EQ(device.queues[1], nullptr);
  guest.set(VIRTIO_MMIO_QUEUE_SEL, 0);
  guest.set(VIRTIO_MMIO_QUEUE_NUM, 4);  // too late
  guest.set(VIRTIO_MMIO_STATUS, 0);
  EXPECT_FALSE(device.active);
  EXPECT_EQ(guest.get(VIRTIO_MMIO_STATUS), 0u);
  EXPECT_EQ(guest.get(VIRTIO_MMIO_QUEUE_READY), 0u);
  guest.set(VIRTIO_MMIO_QUEUE_SEL, 2);
  EXPECT_EQ(guest.get(VIRTIO_MMIO_QUEUE_NUM_MAX), 0u);
}

// 4.2.2.2: "To stop using the queue the driver MUST write zero (0x0) to this QueueReady"; 4.2.2.1: then the device "MUST NOT access virtqueue contents".
TEST_F(MmioTest, QueueThatTheDriverTakesBackIsTouchedNoMore) {
  guest.start();
  guest.queues[0]->add({guest.queues[0]->string("x")});
  device.queues[0]->push(*device.queues[0]->pop(), 0);
  guest.set(VIRTIO_MMIO_QUEUE_SEL, 1);
  guest.set(VIRTIO_MMIO_QUEUE_READY, 0);
  EXPECT_EQ(guest.get(VIRTIO_MMIO_QUEUE_READY), 0u);
  EXPECT_TRUE(device.active);
  ASSERT_EQ(device.queues.size(), 2u);
  EXPECT_EQ(device.queues[1], nullptr);
  ASSERT_TRUE(device.queues[0]);
  EXPECT_EQ(device.queues[0]->state().next_avail, 1) << "the other goes on where it was";
  guest.set(VIRTIO_MMIO_QUEUE_READY, 0);
  guest.set(VIRTIO_MMIO_QUEUE_SEL, 7);
  guest.set(VIRTIO_MMIO_QUEUE_READY, 0);
  EXPECT_EQ(device.activations, 2u);
}

TEST_F(MmioTest, StatusBitsOnlyGoAwayByReset) {
  guest.start();
  guest.set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
  EXPECT_EQ(guest.get(VIRTIO_MMIO_STATUS), 0xfu);
  EXPECT_EQ(device.activations, 1u);
  guest.set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
  EXPECT_FALSE(guest.needs_reset());
}

TEST_F(MmioTest, ImpossibleQueueNeedsReset) {
  guest.negotiate(guest.offered());
  guest.set(VIRTIO_MMIO_QUEUE_SEL, 0);
  guest.set(VIRTIO_MMIO_QUEUE_NUM, 0x10008);
  guest.set(VIRTIO_MMIO_QUEUE_READY, 1);
  guest.driver_ok();
  EXPECT_TRUE(guest.needs_reset());
}

TEST_F(MmioTest, InterruptsAreALevelUntilAcknowledged) {
  guest.start();
  device.interrupt->queue(0);
  device.interrupt->queue(1);
  EXPECT_EQ(guest.irq.rises, 1u);
  device.interrupt->config();
  EXPECT_EQ(guest.get(VIRTIO_MMIO_INTERRUPT_STATUS), 3u);
  guest.set(VIRTIO_MMIO_INTERRUPT_ACK, 1);
  EXPECT_TRUE(guest.irq.level);
  guest.set(VIRTIO_MMIO_INTERRUPT_ACK, 2);
  EXPECT_FALSE(guest.irq.level);
}

TEST_F(MmioTest, GenerationChangesWithWhatTheDriverSees) {
  uint32_t before = guest.get(VIRTIO_MMIO_CONFIG_GENERATION);
  EXPECT_EQ(guest.config<uint32_t>(0), 0x55667788u);
  EXPECT_EQ(guest.get(VIRTIO_MMIO_CONFIG_GENERATION), before);
  device.config = 0xaabbccdd00000000;
  EXPECT_EQ(guest.config<uint32_t>(4), 0xaabbccddu);
  EXPECT_NE(guest.get(VIRTIO_MMIO_CONFIG_GENERATION), before);
  EXPECT_EQ(guest.config<uint16_t>(6), 0xaabbu);
  EXPECT_EQ(guest.config<uint32_t>(0xf0), 0u);
}

TEST_F(MmioTest, BellsRingLikeTheRegister) {
  guest.ring(1);
  guest.ring(7);  // no such queue
  auto bells = guest.mmio->doorbells();
  ASSERT_EQ(bells.size(), 2u);
  EXPECT_EQ(bells[0].offset, 0x50u);
  EXPECT_TRUE(bells[0].match);
  bells[0].ring();
  EXPECT_EQ(device.rung, (std::vector<unsigned>{1, 0}));
}

TEST_F(MmioTest, OddAccessesDoNothing) {
  uint8_t byte = 0xff;
  guest.mmio->read({0}, std::as_writable_bytes(std::span(&byte, 1)));
  EXPECT_EQ(byte, 0xff);
  guest.mmio->write({VIRTIO_MMIO_STATUS}, std::as_bytes(std::span(&byte, 1)));
  EXPECT_EQ(guest.get(VIRTIO_MMIO_STATUS), 0u);
}

}  // namespace
}  // namespace vireo::virtio
