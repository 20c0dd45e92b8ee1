// SPDX-License-Identifier: Apache-2.0
#include "base/event_loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "base/fake_clock.h"
#include "base/owned_fd.h"

namespace vireo {
namespace {

std::unique_ptr<EventLoop> make_loop() {
  auto loop = EventLoop::create();
  EXPECT_TRUE(loop.has_value());
  return std::move(*loop);
}

void ring(int fd) {
  uint64_t one = 1;
  ASSERT_EQ(write(fd, &one, sizeof one), static_cast<ssize_t>(sizeof one));
}

TEST(EventLoop, PostedCallsRunInOrder) {
  auto loop = make_loop();
  std::vector<int> seen;
  for (int i = 0; i < 5; ++i) loop->post([&, i] { seen.push_back(i); });
  loop->step(-1);
  EXPECT_EQ(seen, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST(EventLoop, APostedCallThatTurnsTheLoopFindsThoseBehindIt) {
  auto loop = make_loop();
  std::vector<int> seen;
  loop->post([&] {
    loop->step(0);
    seen.push_back(0);
    loop->post([&] { seen.push_back(3); });
  });
  loop->post([&] { seen.push_back(1); });
  loop->post([&] { seen.push_back(2); });
  loop->step(-1);
  loop->step(0);
  EXPECT_EQ(seen, (std::vector<int>{1, 2, 0, 3}));
}

TEST(EventLoop, PostsFromManyThreadsAllArrive) {
  auto loop = make_loop();
  std::thread runner([&] { loop->run(); });
  int seen = 0;  // touched on the loop's thread only
  std::vector<std::thread> posters;
  for (int t = 0; t < 4; ++t)
    posters.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) loop->post([&] { ++seen; });
    });
  for (auto& poster : posters) poster.join();
  loop->call([] {});
  loop->stop();
  runner.join();
  EXPECT_EQ(seen, 4000);
}

TEST(EventLoop, CallRunsOnTheLoopThreadAndWaits) {
  auto loop = make_loop();
  std::atomic<bool> running = false;
  loop->post([&] { running = true; });
  std::thread runner([&] { loop->run(); });
  while (!running) std::this_thread::yield();  // before that call() would stand in
  std::thread::id where;
  loop->call([&] { where = std::this_thread::get_id(); });
  EXPECT_EQ(where, runner.get_id());
  loop->stop();
  runner.join();
}

TEST(EventLoop, CallStandsInForAnAbsentThread) {
  auto loop = make_loop();
  std::vector<int> seen;
  loop->post([&] { seen.push_back(1); });
  loop->call([&] {
    seen.push_back(2);
    EXPECT_TRUE(loop->on_loop_thread());
    loop->call([&] { seen.push_back(3); });
  });
  EXPECT_EQ(seen, (std::vector<int>{1, 2, 3}));
  EXPECT_FALSE(loop->on_loop_thread());
}

TEST(EventLoop, StopBeforeRunReturnsAtOnce) {
  auto loop = make_loop();
  loop->stop();
  loop->run();
}

TEST(EventLoop, CallsRacingWithStopAreNeverLost) {
  for (int i = 0; i < 50; ++i) {
    auto loop = make_loop();
    std::thread runner([&] { loop->run(); });
    bool done = false;
    std::thread caller([&] { loop->call([&] { done = true; }); });
    loop->stop();
    caller.join();
    runner.join();
    EXPECT_TRUE(done);
  }
}

TEST(EventLoop, WatchIsLevelTriggeredUntilUnwatched) {
  auto loop = make_loop();
  OwnedFd fd(eventfd(0, EFD_NONBLOCK));
  int calls = 0;
  ASSERT_TRUE(loop->watch(fd.get(), EPOLLIN, [&](uint32_t events) {
    EXPECT_TRUE(events & EPOLLIN);
    ++calls;
  }));
  loop->step(0);
  EXPECT_EQ(calls, 0);
  ring(fd.get());
  loop->step(-1);
  loop->step(-1);
  EXPECT_EQ(calls, 2);
  loop->change(fd.get(), 0);
  loop->step(0);
  EXPECT_EQ(calls, 2);
  loop->change(fd.get(), EPOLLIN);
  loop->step(-1);
  EXPECT_EQ(calls, 3);
  loop->unwatch(fd.get());
  loop->step(0);
  EXPECT_EQ(calls, 3);
}

TEST(EventLoop, CallbackMayUnwatchAnotherReadyDescriptor) {
  auto loop = make_loop();
  OwnedFd a(eventfd(1, EFD_NONBLOCK)), b(eventfd(1, EFD_NONBLOCK));
  int calls = 0;
  auto first_only = [&](uint32_t) {
    ++calls;
    loop->unwatch(a.get());
    loop->unwatch(b.get());
  };
  ASSERT_TRUE(loop->watch(a.get(), EPOLLIN, first_only));
  ASSERT_TRUE(loop->watch(b.get(), EPOLLIN, first_only));
  loop->step(-1);
  EXPECT_EQ(calls, 1);
}

TEST(EventLoop, SecondWatchOfOneDescriptorIsRefused) {
  auto loop = make_loop();
  OwnedFd fd(eventfd(0, EFD_NONBLOCK));
  ASSERT_TRUE(loop->watch(fd.get(), EPOLLIN, [](uint32_t) {}));
  EXPECT_FALSE(loop->watch(fd.get(), EPOLLIN, [](uint32_t) {}));
}

TEST(EventLoop, TimersFireInDeadlineOrder) {
  auto loop = make_loop();
  std::vector<int> seen;
  auto late = loop->create([&] { seen.push_back(2); });
  auto early = loop->create([&] { seen.push_back(1); });
  auto never = loop->create([&] { seen.push_back(3); });
  late->arm(2);
  early->arm(1);
  never->arm(1);
  never->cancel();
  loop->step(-1);
  EXPECT_EQ(seen, (std::vector<int>{1, 2}));
}

TEST(EventLoop, TimerMayArmAndDestroyItself) {
  auto loop = make_loop();
  int fired = 0;
  std::unique_ptr<Timer> timer;
  timer = loop->create([&] {
    if (++fired < 3)
      timer->arm(loop->now_ns());
    else
      timer.reset();
  });
  timer->arm(0);
  while (fired < 3) loop->step(-1);
  EXPECT_EQ(timer, nullptr);
}

TEST(EventLoop, TimerArmedFromAnotherThreadFires) {
  auto loop = make_loop();
  std::atomic<bool> fired = false;
  auto timer = loop->create([&] {
    fired = true;
    loop->stop();
  });
  std::thread runner([&] { loop->run(); });
  timer->arm(loop->now_ns() + 1'000'000);
  runner.join();
  EXPECT_TRUE(fired);
}

TEST(FakeClock, AdvanceRunsTimersAtTheirOwnTime) {
  FakeClock clock(100);
  std::vector<uint64_t> seen;
  auto a = clock.create([&] { seen.push_back(clock.now_ns()); });
  std::unique_ptr<Timer> again;
  again = clock.create([&] {
    seen.push_back(clock.now_ns());
    if (seen.size() < 3) again->arm(clock.now_ns() + 10);
  });
  a->arm(125);
  again->arm(120);
  clock.advance(19);
  EXPECT_TRUE(seen.empty());
  clock.advance(100);
  EXPECT_EQ(seen, (std::vector<uint64_t>{120, 125, 130}));
  EXPECT_EQ(clock.now_ns(), 219u);
}

}  // namespace
}  // namespace vireo
