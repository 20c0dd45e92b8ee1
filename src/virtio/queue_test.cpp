// SPDX-License-Identifier: Apache-2.0
#include "virtio/queue.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "virtio/driver_fake.h"

namespace vireo::virtio {
namespace {

using Format = Queue::Format;

struct Variant {
  Format format;
  bool event_idx;
};

class QueueTest : public testing::TestWithParam<Variant> {
 public:
  void make(uint16_t size, bool indirect = true) {
    driver = std::make_unique<FakeDriver>(heap, GetParam().format, size, GetParam().event_idx, indirect);
    queue = std::make_unique<Queue>(*memory, driver->config, [this] { ++broken; });
  }
  bool packed() const { return GetParam().format == Format::kPacked; }
  // Overwrites field `offset` of ring descriptor `slot`.
  template <class T>
  void patch(uint16_t slot, unsigned offset, T value) {
    driver->put<T>(driver->config.descriptors + 16 * slot + offset, value);
  }

  std::unique_ptr<GuestMemory> memory = test_memory();
  FakeHeap heap{*memory};
  std::unique_ptr<FakeDriver> driver;
  std::unique_ptr<Queue> queue;
  int broken = 0;
  uint16_t slot = 0;
  bool skip_first = false;

  void or_flags(unsigned offset, uint16_t bits) {
    auto at = driver->config.descriptors + 16 * slot + offset;
    driver->put<uint16_t>(at, driver->get<uint16_t>(at) | bits);
  }

};

std::string contents(std::span<const iovec> parts) {
  std::string out;
  for (auto& part : parts) out.append(static_cast<char*>(part.iov_base), part.iov_len);
  return out;
}

TEST_P(QueueTest, ChainComesOutAsGiven) {
  make(8);
  for (bool table : {false, true}) {
    Buffer in = driver->room(4);
    uint16_t id = driver->add({driver->string("hello "), driver->string("world"), in, driver->room(3)}, table);
    auto chain = queue->pop();
    ASSERT_TRUE(chain);
    EXPECT_EQ(contents(chain->readable()), "hello world");
    EXPECT_EQ(chain->readable_size(), 11u);
    EXPECT_EQ(chain->writable_size(), 7u);
    EXPECT_FALSE(queue->pop());
    EXPECT_FALSE(driver->used());
    EXPECT_EQ(chain->put(2, std::as_bytes(std::span("xyzuvwt", 7))), 5u);
    queue->push(std::move(*chain), 7);
    auto used = driver->used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, id);
    EXPECT_EQ(used->length, 7u);
    EXPECT_EQ(driver->text(in.address + 2, 2), "xy");
    EXPECT_FALSE(driver->used());
  }
  EXPECT_EQ(queue->in_flight(), 0u);
}

TEST_P(QueueTest, TakeAndStatusByteCrossSegments) {
  make(8);
  Buffer status = driver->room(1);
  driver->add({driver->string("ab"), driver->string("cdef"), driver->room(2), status});
  auto chain = queue->pop();
  char head[3];
  ASSERT_TRUE(chain->take_value(head));
  EXPECT_EQ(std::string(head, 3), "abc");
  EXPECT_EQ(contents(chain->readable()), "def");
  char too_much[4];
  EXPECT_FALSE(chain->take_value(too_much));
  std::byte* last = chain->take_last_writable();
  ASSERT_TRUE(last);
  *last = std::byte{'s'};
  EXPECT_EQ(chain->writable_size(), 2u);
  EXPECT_EQ(driver->text(status.address, 1), "s");
  EXPECT_TRUE(chain->take_last_writable());
  EXPECT_TRUE(chain->take_last_writable());
  EXPECT_FALSE(chain->take_last_writable());
}

TEST_P(QueueTest, WritesAreNoticedBeforeTheyArePublished) {
  make(8);
  Buffer in = driver->room(100);
  driver->add({in});
  auto chain = queue->pop();
  bool data_noticed = false;
  memory->set_write_notice([&](GuestAddress start, uint64_t size) {
    if (start != in.address) return;
    EXPECT_EQ(size, 40u);
    EXPECT_FALSE(driver->used());
    data_noticed = true;
  });
  queue->push(std::move(*chain), 40);
  memory->set_write_notice({});
  EXPECT_TRUE(data_noticed);
  EXPECT_TRUE(driver->used());
}

TEST_P(QueueTest, ManyRoundsOutOfOrder) {
  make(packed() ? 7 : 8);  // a packed ring need not be a power of two
  std::mt19937 random(1);
  std::vector<Chain> held;
  std::map<uint16_t, unsigned> expected;
  unsigned outstanding = 0, serial = 0, returned = 0;
  for (int step = 0; step < 20000; ++step) {
    if (random() % 2 && outstanding < 3) {
      // Two descriptors at most each, three chains: never more than the ring holds.
      Buffer out{GuestAddress{0x100000}, 1 + serial % 50};
      Buffer in{GuestAddress{0x101000}, 64, true};
      bool table = random() % 2;
      uint16_t id = random() % 2 ? driver->add({out, in}, table) : driver->add({out}, table);
      expected[id] = serial % 50 + 1;
      ++serial;
      ++outstanding;
    }
    if (auto chain = queue->pop()) held.push_back(std::move(*chain));
    if (!held.empty() && random() % 2) {
      size_t pick = random() % held.size();
      uint32_t size = held[pick].readable_size();
      queue->push(std::move(held[pick]), size);
      held.erase(held.begin() + pick);
    }
    while (auto used = driver->used()) {
      EXPECT_EQ(used->length, expected.at(used->id));
      expected.erase(used->id);
      --outstanding;
      ++returned;
    }
  }
  EXPECT_GT(returned, 3000u);
  EXPECT_FALSE(queue->broken());
}

TEST_P(QueueTest, RestoredChainComesAgain) {
  make(4);
  for (int round = 0; round < 9; ++round) {  // over the wrap
    driver->add({driver->string("a"), driver->room(1)});
    driver->add({driver->string("b")});
    auto a = queue->pop();
    auto b = queue->pop();
    queue->restore(std::move(*b));
    queue->restore(std::move(*a));
    EXPECT_EQ(queue->in_flight(), 0u);
    for (const char* text : {"a", "b"}) {
      auto chain = queue->pop();
      ASSERT_TRUE(chain);
      EXPECT_EQ(contents(chain->readable()), text);
      queue->push(std::move(*chain), 0);
      EXPECT_TRUE(driver->used());
    }
  }
}

TEST_P(QueueTest, InterruptsFollowTheDriversWish) {
  make(8);
  auto complete = [&] {
    driver->add({driver->string("x")});
    auto chain = queue->pop();
    queue->push(std::move(*chain), 0);
  };
  EXPECT_FALSE(queue->needs_interrupt());  // nothing used
  driver->want_interrupts(true);
  complete();
  EXPECT_TRUE(queue->needs_interrupt());
  EXPECT_FALSE(queue->needs_interrupt());
  while (driver->used()) {
  }
  driver->want_interrupts(false);
  complete();
  EXPECT_FALSE(queue->needs_interrupt());
  while (driver->used()) {
  }
  driver->want_interrupts(true);
  complete();
  EXPECT_TRUE(queue->needs_interrupt());
}

class EventIndexTest : public QueueTest {};

TEST_P(EventIndexTest, DelaysTheInterrupt) {
  make(8);
  for (int round = 0; round < 50; ++round) {
    int interrupts = 0;
    driver->want_interrupts(true, 2);  // when the third is used
    for (int i = 0; i < 5; ++i) {
      driver->add({driver->string("x")});
      auto chain = queue->pop();
      queue->push(std::move(*chain), 0);
      bool now = queue->needs_interrupt();
      interrupts += now;
      if (round > 0) {
        EXPECT_EQ(now, i == 2) << round;
      }
    }
    if (round > 0) {
      EXPECT_EQ(interrupts, 1);
    }
    while (driver->used()) {
    }
  }
}

TEST_P(QueueTest, BellIsOffWhileDraining) {
  make(8);
  driver->add({driver->string("a")});
  EXPECT_TRUE(driver->must_notify());
  int seen = 0;
  queue->drain([&](Chain chain) {
    queue->push(std::move(chain), 0);
    if (++seen == 1) {
      driver->add({driver->string("b")});
      driver->add({driver->string("c")});
      if (!GetParam().event_idx || packed()) {
        EXPECT_FALSE(driver->must_notify());
      }
    }
    return true;
  });
  EXPECT_EQ(seen, 3);
  driver->must_notify();
  driver->add({driver->string("d")});
  EXPECT_TRUE(driver->must_notify());
}

TEST_P(QueueTest, EnableReportsWhatArrivedMeanwhile) {
  make(8);
  queue->disable_notifications();
  driver->add({driver->string("a")});
  EXPECT_TRUE(queue->enable_notifications());
  auto chain = queue->pop();
  EXPECT_FALSE(queue->enable_notifications());
}

TEST_P(QueueTest, HostileChainsBreakTheQueueOnce) {
  struct Case {
    const char* name;
    std::function<void(QueueTest&)> spoil;
  };
  auto flags_at = [](QueueTest& t) { return t.packed() ? 14u : 12u; };
  const Case cases[] = {
      {"outside RAM", [](QueueTest& t) { t.patch<uint64_t>(t.slot, 0, 1ull << 40); }},
      {"wraps the address space", [](QueueTest& t) { t.patch<uint64_t>(t.slot, 0, ~0ull - 3); }},
      {"longer than RAM", [](QueueTest& t) { t.patch<uint32_t>(t.slot, 8, 0xffffffff); }},
      {"indirect with next", [&](QueueTest& t) { t.or_flags(flags_at(t), VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT); }},
      {"indirect of odd size", [&](QueueTest& t) { t.or_flags(flags_at(t), VRING_DESC_F_INDIRECT); }},
      {"readable after writable",
       [](QueueTest& t) {
         Buffer w{GuestAddress{0x200000}, 4, true}, r{GuestAddress{0x201000}, 4, false};
         t.driver->add({w, r});
         t.skip_first = true;
       }},
  };
  for (auto& c : cases) {
    SCOPED_TRACE(c.name);
    skip_first = false;
    broken = 0;
    make(8);
    uint16_t id = driver->add({driver->string("abc")});
    slot = packed() ? 0 : id;
    c.spoil(*this);
    if (skip_first) {
      EXPECT_TRUE(queue->pop());
    }
    EXPECT_FALSE(queue->pop());
    EXPECT_TRUE(queue->broken());
    EXPECT_EQ(broken, 1);
    EXPECT_FALSE(queue->pop());
    EXPECT_FALSE(queue->needs_interrupt());
    EXPECT_FALSE(queue->enable_notifications());
    EXPECT_EQ(broken, 1);
  }
}

TEST_P(QueueTest, LoopsBreakTheQueue) {
  make(4);
  if (packed()) {
    for (uint16_t i = 0; i < 4; ++i) {  // every descriptor says "next"
      patch<uint64_t>(i, 0, 0x100000);
      patch<uint32_t>(i, 8, 16);
      patch<uint16_t>(i, 14, VRING_DESC_F_NEXT | 1 << 7);
    }
  } else {
    driver->add({driver->string("a"), driver->string("b")});
    auto head = driver->get<uint16_t>(driver->config.driver + 4);
    auto next = driver->get<uint16_t>(driver->config.descriptors + 16 * head + 14);
    patch<uint16_t>(next, 12, VRING_DESC_F_NEXT);
    patch<uint16_t>(next, 14, head);
  }
  EXPECT_FALSE(queue->pop());
  EXPECT_TRUE(queue->broken());
}

TEST_P(QueueTest, IndirectMustBeNegotiatedAndFlat) {
  make(8, false);
  driver->add({driver->string("a")}, true);
  EXPECT_FALSE(queue->pop());
  EXPECT_TRUE(queue->broken());

  if (packed()) return;  // flags inside a packed table are reserved
  make(8);
  uint16_t id = driver->add({driver->string("a")}, true);
  GuestAddress table{driver->get<uint64_t>(driver->config.descriptors + 16 * id)};
  driver->put<uint16_t>(table + 12, VRING_DESC_F_INDIRECT);
  EXPECT_FALSE(queue->pop());
  EXPECT_TRUE(queue->broken());

  make(8);
  id = driver->add({driver->string("a"), driver->string("b")}, true);
  table = GuestAddress{driver->get<uint64_t>(driver->config.descriptors + 16 * id)};
  driver->put<uint16_t>(table + 16 + 12, VRING_DESC_F_NEXT);
  driver->put<uint16_t>(table + 16 + 14, 0);
  EXPECT_FALSE(queue->pop());
  EXPECT_TRUE(queue->broken());
}

TEST_P(QueueTest, UnboundedInFlightIsRefused) {
  make(4);
  std::vector<Chain> held;
  for (int i = 0; i < 5; ++i) {
    if (packed()) {
      // As if the device had used the slot already: the same slot made available for the next lap.
      bool wrap = i < 4;
      patch<uint64_t>(i % 4, 0, 0x100000);
      patch<uint32_t>(i % 4, 8, 16);
      patch<uint16_t>(i % 4, 14, wrap ? 1 << 7 : 1 << 15);
    } else {
      patch<uint64_t>(0, 0, 0x100000);
      patch<uint32_t>(0, 8, 16);
      driver->put<uint16_t>(driver->config.driver + 4 + 2 * (i % 4), 0);
      driver->put<uint16_t>(driver->config.driver + 2, i + 1);
    }
    auto chain = queue->pop();
    EXPECT_EQ(chain.has_value(), i < 4);
    if (chain) held.push_back(std::move(*chain));
  }
  EXPECT_TRUE(queue->broken());
}

TEST_P(QueueTest, RingsOutsideRamAreBrokenFromTheStart) {
  make(8);
  Queue::Config good = driver->config;
  auto is_broken = [&](auto change) {
    Queue::Config config = good;
    change(config);
    return Queue(*memory, config, {}).broken();
  };
  EXPECT_FALSE(is_broken([](auto&) {}));
  EXPECT_TRUE(is_broken([](auto& c) { c.size = 0; }));
  EXPECT_EQ(is_broken([](auto& c) { c.size = 6; }), !packed());
  EXPECT_TRUE(is_broken([](auto& c) { c.descriptors = GuestAddress{(16 << 20) - 64}; }));
  EXPECT_TRUE(is_broken([](auto& c) { c.descriptors = GuestAddress{0x8}; }));
  EXPECT_TRUE(is_broken([](auto& c) { c.driver = GuestAddress{~0ull - 1}; }));
  EXPECT_TRUE(is_broken([](auto& c) { c.driver = GuestAddress{0x1001}; }));
  EXPECT_TRUE(is_broken([](auto& c) { c.device = GuestAddress{0x1002}; }));
}

TEST_P(QueueTest, RingsThatDisappearBreakTheQueue) {
  for (GuestAddress Queue::Config::*part : {&Queue::Config::descriptors, &Queue::Config::driver, &Queue::Config::device}) {
    broken = 0;
    make(8);
    driver->add({driver->string("a")});
    driver->add({driver->string("b")});
    auto chain = queue->pop();
    ASSERT_TRUE(chain);
    memory->hide(0, driver->config.*part, 32);
    queue->disable_notifications();
    queue->push(std::move(*chain), 0);
    queue->needs_interrupt();
    queue->enable_notifications();
    EXPECT_FALSE(queue->pop());
    EXPECT_TRUE(queue->broken());
    EXPECT_EQ(broken, 1);
    memory->hide(0, {}, 0);
    EXPECT_FALSE(queue->pop());
  }
}

TEST_P(QueueTest, ZeroLengthDescriptorsAreNothing) {
  make(8);
  driver->add({Buffer{GuestAddress{~0ull}, 0}, driver->string("x")});
  auto chain = queue->pop();
  ASSERT_TRUE(chain);
  EXPECT_EQ(contents(chain->readable()), "x");
}

// A driver on another thread that sleeps until it is told and tells only when asked: any lost wake-up hangs here.
TEST_P(QueueTest, ConcurrentDriverLosesNoWakeUp) {
  make(16);
  constexpr unsigned kRequests = 20000;
  std::atomic<unsigned> bell{0}, interrupt{0};
  std::thread device([&] {
    unsigned done = 0, seen = 0;
    while (done < kRequests) {
      while (bell.load() == seen) bell.wait(seen);
      seen = bell.load();
      queue->drain([&](Chain chain) {
        uint64_t value = 0;
        EXPECT_TRUE(chain.take_value(value));
        ++value;
        chain.put(0, std::as_bytes(std::span(&value, 1)));
        queue->push(std::move(chain), 8);
        ++done;
        if (queue->needs_interrupt()) {
          ++interrupt;
          interrupt.notify_one();
        }
        return true;
      });
    }
  });
  GuestAddress out = heap.take(8), in = heap.take(8);
  driver->put<uint64_t>(out, 41);
  unsigned sent = 0, received = 0;
  driver->want_interrupts(true);
  // The first enabling of the bell belongs to the device.
  ++bell;
  bell.notify_one();
  while (received < kRequests) {
    unsigned before = interrupt.load();
    while (sent < kRequests && sent - received < 6) {
      driver->add({{out, 8, false}, {in, 8, true}});
      ++sent;
      if (driver->must_notify()) {
        ++bell;
        bell.notify_one();
      }
    }
    unsigned got = 0;
    while (driver->used()) ++got;
    received += got;
    if (got || received == kRequests) continue;
    driver->want_interrupts(true);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (driver->used()) {
      ++received;
      continue;
    }
    interrupt.wait(before);
  }
  device.join();
  EXPECT_EQ(driver->get<uint64_t>(in), 42u);
}

std::string name_of(const testing::TestParamInfo<Variant>& info) {
  return std::string(info.param.format == Format::kSplit ? "Split" : "Packed") + (info.param.event_idx ? "EventIdx" : "");
}

INSTANTIATE_TEST_SUITE_P(Formats, QueueTest,
                         testing::Values(Variant{Format::kSplit, false}, Variant{Format::kSplit, true},
                                         Variant{Format::kPacked, false}, Variant{Format::kPacked, true}),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Formats, EventIndexTest, testing::Values(Variant{Format::kSplit, true}, Variant{Format::kPacked, true}),
                         name_of);

}  // namespace
}  // namespace vireo::virtio
