// SPDX-License-Identifier: Apache-2.0
// A terminal's other end that reads late, or never: the loop must go on, and nothing may be lost that fits.
#include "machine/char_fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <future>
#include <thread>

namespace vireo {
namespace {

struct Pty {
  OwnedFd master{posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)}, slave;
  Pty() {
    char name[64];
    if (!master.valid() || grantpt(master.get()) || unlockpt(master.get()) || ptsname_r(master.get(), name, sizeof name)) return;
    slave.reset(open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
    termios raw;
    tcgetattr(slave.get(), &raw);
    cfmakeraw(&raw);
    tcsetattr(slave.get(), TCSANOW, &raw);
  }
};

class CharFdOnPty : public testing::Test {
 protected:
  CharFdOnPty() : loop(std::move(EventLoop::create().value())), runner([this] { loop->run(); }) {}
  ~CharFdOnPty() override {
    // Reading lets a loop go on that waits in spite of all.
    std::thread reader([this] { read_all(); });
    loop->call([this] { char_fd.reset(); });
    loop->stop();
    runner.join();
    pty.slave.reset();
    reader.join();
  }
  std::string read_all() {
    std::string all;
    char buffer[4096];
    for (ssize_t n; (n = read(pty.master.get(), buffer, sizeof buffer)) > 0;) all.append(buffer, static_cast<size_t>(n));
    return all;
  }
  bool loop_answers() {
    auto answer = std::make_shared<std::promise<void>>();
    loop->post([answer] { answer->set_value(); });
    return answer->get_future().wait_for(std::chrono::seconds(20)) == std::future_status::ready;
  }

  Pty pty;
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<CharFd> char_fd;
  std::thread runner;
};

TEST_F(CharFdOnPty, AnUnreadTerminalDoesNotHoldTheLoop) {
  ASSERT_TRUE(pty.slave.valid());
  char_fd = std::make_unique<CharFd>(*loop, -1, pty.slave.get());
  // Sizes that do not divide the terminal's buffer, so that its last room is smaller than a chunk.
  for (int i = 0; i < 200; i++) char_fd->print(std::string(331, 'x'));
  EXPECT_TRUE(loop_answers());
  EXPECT_EQ(fcntl(pty.slave.get(), F_GETFL) & O_NONBLOCK, 0) << "a descriptor that others use too";
}

TEST_F(CharFdOnPty, WhatIsReadLateIsWhole) {
  ASSERT_TRUE(pty.slave.valid());
  char_fd = std::make_unique<CharFd>(*loop, -1, pty.slave.get());
  std::string sent;
  for (int i = 0; i < 3000; i++) sent += std::to_string(i) + ",";
  char_fd->print(sent);
  ASSERT_TRUE(loop_answers());
  std::string got(sent.size(), 0);
  for (size_t at = 0; at < got.size();) {
    const ssize_t n = read(pty.master.get(), got.data() + at, got.size() - at);
    ASSERT_GT(n, 0);
    at += static_cast<size_t>(n);
  }
  EXPECT_EQ(got, sent);
}

}  // namespace
}  // namespace vireo
