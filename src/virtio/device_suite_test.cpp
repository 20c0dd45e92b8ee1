// SPDX-License-Identifier: Apache-2.0
// What holds for every virtio device, whatever it does.
#include <gtest/gtest.h>

#include <random>

#include "base/fake_clock.h"
#include "network/backend.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/disk_fake.h"
#include "virtio/guest_fake.h"
#include "virtio/net.h"
#include "virtio/rng.h"

namespace vireo::virtio {
namespace {

class Silent final : public ConsolePort {
 public:
  size_t write(std::span<const std::byte> data) override { return data.size(); }
  size_t read(std::span<std::byte>) override { return 0; }
  void set_callbacks(std::function<void()>, std::function<void()>) override {}
};

struct World {
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  FakeDisk::Controls disk{.bytes = std::vector<std::byte>(1 << 20)};
};

struct Kind {
  const char* name;
  std::unique_ptr<Device> (*make)(World&);
};

const Kind kKinds[] = {
    {"Blk", [](World& w) -> std::unique_ptr<Device> {
       return std::move(*Blk::create({.queues = 2}, {*w.loop}, std::make_unique<FakeDisk>(w.disk)));
     }},
    {"Net", [](World& w) -> std::unique_ptr<Device> {
       return std::move(*Net::create({.mac = {2, 0, 0, 0, 0, 1}}, {*w.loop}, std::make_unique<network::None>()));
     }},
    {"Rng", [](World& w) -> std::unique_ptr<Device> { return std::move(*Rng::create({}, {*w.loop, *w.loop, *w.loop})); }},
    {"Console", [](World& w) -> std::unique_ptr<Device> {
       std::vector<std::unique_ptr<ConsolePort>> ends;
       for (int i = 0; i < 2; ++i) ends.push_back(std::make_unique<Silent>());
       return std::move(*Console::create({.ports = {{}, {"p", false}}}, {*w.loop}, std::move(ends)));
     }},
};

class DeviceSuite : public testing::TestWithParam<Kind> {
 protected:
  void make() { guest = std::make_unique<FakeGuest>(GetParam().make(world), *memory, heap, *world.loop); }
  void SetUp() override { make(); }
  World world;
  std::unique_ptr<GuestMemory> memory = test_memory(64 << 20);
  FakeHeap heap{*memory};
  std::unique_ptr<FakeGuest> guest;
};

TEST_P(DeviceSuite, EveryOfferedFeatureAloneIsAccepted) {
  uint64_t offered = guest->offered(), version = 1ull << VIRTIO_F_VERSION_1;
  ASSERT_TRUE(offered & version);
  for (unsigned n = 0; n < 64; ++n) {
    if (!(offered >> n & 1)) {
      EXPECT_FALSE(guest->negotiate(version | 1ull << n)) << n;
      continue;
    }
    EXPECT_TRUE(guest->negotiate(version | 1ull << n)) << n;
    guest->set_up_queues(8);
    guest->driver_ok();
    guest->settle();
    EXPECT_FALSE(guest->needs_reset());
  }
}

TEST_P(DeviceSuite, HasAtMostOneQueueSizePerQueue) {
  guest->start();
  EXPECT_EQ(guest->queues.size(), guest->mmio->queue_count());
  EXPECT_GT(guest->queues.size(), 0u);
}

TEST_P(DeviceSuite, SaveLoadSaveIsTheSame) {
  for (bool started : {false, true}) {
    make();
    if (started) guest->start();
    MapArchive first, second;
    guest->mmio->fields(first);
    make();
    auto loader = first.loader();
    guest->mmio->fields(loader);
    guest->mmio->fields(second);
    EXPECT_EQ(first.fields, second.fields);
  }
}

TEST_P(DeviceSuite, ResetIsLikeNew) {
  MapArchive fresh, after;
  guest->mmio->fields(fresh);
  guest->start();
  for (unsigned i = 0; i < guest->queues.size(); ++i) guest->ring(i);
  guest->settle();
  guest->mmio->reset(ResetKind::kWarm);
  guest->mmio->fields(after);
  EXPECT_EQ(fresh.fields, after.fields);
}

TEST_P(DeviceSuite, PauseAndResumeAreInvisible) {
  guest->start();
  MapArchive before, after;
  guest->mmio->fields(before);
  guest->mmio->pause();
  guest->mmio->resume();
  guest->settle();
  guest->mmio->fields(after);
  EXPECT_EQ(before.fields, after.fields);
}

TEST_P(DeviceSuite, RandomRegisterAccessesAreHarmless) {
  std::mt19937 random(3);
  for (int i = 0; i < 20000; ++i) {
    std::byte data[8];
    for (auto& b : data) b = static_cast<std::byte>(random());
    size_t size = 1u << random() % 4;
    uint64_t offset = random() % 3 ? random() % 0x40 * 4 : random() % 0x200;
    if (random() % 2) memset(data, static_cast<int>(random() % 16), 1), memset(data + 1, 0, 7);
    random() % 2 ? guest->mmio->write({offset}, {data, size}) : guest->mmio->read({offset}, {data, size});
    if (i % 50 == 0) guest->settle();
  }
}

TEST_P(DeviceSuite, RandomBuffersOnEveryQueueAreHarmless) {
  std::mt19937 random(4);
  for (int round = 0; round < 30; ++round) {
    guest->start(guest->offered() & ~(random() % 2 ? 1ull << VIRTIO_F_RING_PACKED : 0));
    for (int i = 0; i < 40; ++i) {
      unsigned index = random() % guest->queues.size();
      auto& q = *guest->queues[index];
      std::vector<Buffer> buffers;
      for (unsigned n = random() % 3; n > 0; --n) {
        std::string s(random() % 64, 0);
        for (char& ch : s) ch = static_cast<char>(random() % 3 ? random() % 8 : random());
        buffers.push_back(q.string(s));
      }
      for (unsigned n = random() % 3; n > 0; --n) buffers.push_back(q.room(random() % 600));
      if (buffers.empty()) continue;
      q.add(buffers, true);
      guest->ring(index);
      guest->settle();
      while (q.used()) {
      }
    }
  }
  guest->mmio->reset(ResetKind::kCold);
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceSuite, testing::ValuesIn(kKinds), [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace vireo::virtio
