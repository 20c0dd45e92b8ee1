// SPDX-License-Identifier: Apache-2.0
#include "virtio/rng.h"

#include <gtest/gtest.h>

#include "base/fake_clock.h"
#include "virtio/guest_fake.h"

namespace vireo::virtio {
namespace {

class RngTest : public testing::Test {
 protected:
  void make(RngConfig config = {}) {
    auto rng = Rng::create(config, {*loop, clock, clock});
    ASSERT_TRUE(rng);
    guest = std::make_unique<FakeGuest>(std::move(*rng), *memory, heap, *loop);
    guest->start();
  }
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  FakeClock clock;
  std::unique_ptr<GuestMemory> memory = test_memory();
  FakeHeap heap{*memory};
  std::unique_ptr<FakeGuest> guest;
};

TEST_F(RngTest, FillsWhatItIsGiven) {
  make();
  Buffer a = guest->queues[0]->room(20), b = guest->queues[0]->room(44);
  EXPECT_EQ(guest->request(0, {a, b}).length, 64u);
  EXPECT_NE(guest->queues[0]->text(a.address, 20), std::string(20, 0));
  EXPECT_NE(guest->queues[0]->text(b.address, 44), std::string(44, 0));
}

TEST_F(RngTest, BuffersItCannotWriteComeBackEmpty) {
  make();
  EXPECT_EQ(guest->request(0, {guest->queues[0]->string("readable")}).length, 0u);
}

TEST_F(RngTest, LimitMakesTheGuestWaitForTheNextPeriod) {
  make({.max_bytes = 40, .period_ms = 10});
  EXPECT_EQ(guest->request(0, {guest->queues[0]->room(30)}).length, 30u);
  EXPECT_EQ(guest->request(0, {guest->queues[0]->room(30)}).length, 10u);
  guest->queues[0]->add({guest->queues[0]->room(30)});
  guest->ring(0);
  guest->settle();
  EXPECT_FALSE(guest->queues[0]->used());
  clock.advance(10'000'000);
  EXPECT_EQ(guest->wait_used(0).length, 30u);
}

TEST_F(RngTest, ResetWhileWaitingIsClean) {
  make({.max_bytes = 1, .period_ms = 10});
  guest->request(0, {guest->queues[0]->room(1)});
  guest->queues[0]->add({guest->queues[0]->room(30)});
  guest->ring(0);
  guest->settle();
  guest->set(VIRTIO_MMIO_STATUS, 0);
  EXPECT_FALSE(clock.any_armed());
}

}  // namespace
}  // namespace vireo::virtio
