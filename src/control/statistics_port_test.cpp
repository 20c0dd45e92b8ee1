// SPDX-License-Identifier: Apache-2.0
#include "control/statistics_port.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <thread>

#include "control/runtime_folder.h"
#include "control/statistics_guests.h"

namespace vireo::control {
namespace {

// A statistics file of one counter.
OwnedFd file_of(const std::string& id, uint64_t value) {
  struct {
    uint32_t header[6] = {0, 32, 1, 24, 56, 104};
    char id[32] = {};
    uint32_t descriptor[4] = {0, 1u << 16, 0, 0};
    char name[32] = "exits";
    uint64_t value = 0;
  } image;
  static_assert(sizeof image == 112);
  id.copy(image.id, 31);
  image.value = value;
  OwnedFd fd(memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(write(fd.get(), &image, sizeof image), static_cast<ssize_t>(sizeof image));
  return fd;
}

class Port : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/statistics_port_test.XXXXXX";
    ASSERT_TRUE(mkdtemp(name));
    folder_ = name;
    old_ = getenv("XDG_RUNTIME_DIR") ? getenv("XDG_RUNTIME_DIR") : "";
    setenv("XDG_RUNTIME_DIR", name, 1);
    loop_ = std::move(EventLoop::create()).value();
    thread_ = std::thread([this] { loop_->run(); });
  }
  void TearDown() override {
    loop_->call([this] { port_.reset(); });
    loop_->stop();
    thread_.join();
    if (old_.empty()) unsetenv("XDG_RUNTIME_DIR");
    else setenv("XDG_RUNTIME_DIR", old_.c_str(), 1);
    std::filesystem::remove_all(folder_);
  }
  std::string path(int process = 77) { return runtime_folder().value() + "/" + std::to_string(process) + kStatisticsSuffix; }
  void listen(unsigned vcpus) {
    std::vector<OwnedFd> files;
    files.push_back(file_of("kvm-77", 5));
    for (unsigned i = 0; i < vcpus; i++) files.push_back(file_of("kvm-77/vcpu-" + std::to_string(i), 1000 + i));
    auto port = StatisticsPort::listen(*loop_, path(), std::move(files));
    ASSERT_TRUE(port) << port.error().message;
    port_ = std::move(*port);
  }

  std::string folder_, old_;
  std::unique_ptr<EventLoop> loop_;
  std::thread thread_;
  std::unique_ptr<StatisticsPort> port_;
};

TEST_F(Port, GivesTheFilesOfAllVcpus) {
  listen(300);
  auto guest = find_statistics(77);
  ASSERT_TRUE(guest) << guest.error().message;
  ASSERT_EQ(guest->files.size(), 301u);
  EXPECT_EQ(guest->files[0].id(), "kvm-77");
  for (int i = 0; i < 300; i++) {
    EXPECT_EQ(guest->files[i + 1].vcpu(), i);
    EXPECT_EQ(guest->files[i + 1].read().value(), std::vector<uint64_t>{1000u + i});
  }
}

TEST_F(Port, IsTheOwnersAlone) {
  listen(1);
  struct stat st;
  ASSERT_EQ(stat(path().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  ASSERT_EQ(stat((folder_ + "/vireo").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
}

TEST_F(Port, TheConnectionEndsWithTheMachine) {
  listen(1);
  auto guest = find_statistics(77);
  ASSERT_TRUE(guest);
  pollfd ended{guest->alive.get(), POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, 50), 0);
  loop_->call([this] { port_.reset(); });
  EXPECT_EQ(poll(&ended, 1, 5000), 1);
  EXPECT_FALSE(std::filesystem::exists(path()));
  EXPECT_EQ(guest->files[1].read().value(), std::vector<uint64_t>{1000u});  // still to be had
}

TEST_F(Port, ListsWhatRunsAndClearsWhatIsLeft) {
  listen(1);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, path(78).c_str());
  {
    OwnedFd dead(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    ASSERT_EQ(bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ASSERT_TRUE(std::filesystem::exists(path(78)));
  const auto found = statistics_guests();
  EXPECT_NE(std::ranges::find(found, 77), found.end());
  EXPECT_EQ(std::ranges::find(found, 78), found.end());
  EXPECT_FALSE(std::filesystem::exists(path(78)));
}

TEST_F(Port, AStoppedMachineIsListedWithoutWaitingForIt) {
  listen(1);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, path(78).c_str());
  OwnedFd stopped(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(stopped.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(stopped.get(), 0), 0);
  OwnedFd waits(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(waits.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  alarm(20);  // it would wait for ever
  const auto found = statistics_guests();
  alarm(0);
  EXPECT_NE(std::ranges::find(found, 77), found.end());
  EXPECT_NE(std::ranges::find(found, 78), found.end());
}

TEST_F(Port, ALeftSocketIsReplaced) {
  listen(1);
  loop_->call([this] { port_.reset(); });
  OwnedFd dead(open(path().c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  listen(2);
  EXPECT_EQ(find_statistics(77).value().files.size(), 3u);
}

TEST_F(Port, AProcessWithoutAPortIsNotFound) {
  auto guest = find_statistics(getpid());
  ASSERT_FALSE(guest);
  EXPECT_NE(guest.error().message.find("no virtual machine"), std::string::npos);
}

TEST_F(Port, AFolderOfOthersIsNotUsed) {
  ASSERT_EQ(mkdir((folder_ + "/vireo").c_str(), 0700), 0);
  ASSERT_EQ(chmod((folder_ + "/vireo").c_str(), 0777), 0);
  auto other = runtime_folder();
  EXPECT_TRUE(!other || *other != folder_ + "/vireo");
}

// What a machine's port might say instead.
TEST_F(Port, OtherAnswersAreErrors) {
  for (const char* said : {"", "hello", "vireo statistics 1 2\n", "vireo statistics 1 0\n", "vireo statistics 1 99999999\n", "vireo statistics 1 1"}) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, path(79).c_str());
    unlink(address.sun_path);
    OwnedFd server(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    ASSERT_EQ(bind(server.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(server.get(), 1), 0);
    std::thread answer([&] {
      OwnedFd client(accept(server.get(), nullptr, nullptr));
      if (*said) send(client.get(), said, strlen(said), MSG_NOSIGNAL);
    });
    EXPECT_FALSE(connect_statistics(address.sun_path, 79)) << said;
    answer.join();
  }
}

}  // namespace
}  // namespace vireo::control
