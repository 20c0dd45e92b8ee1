// SPDX-License-Identifier: Apache-2.0
// The control socket of a machine: what its clients see while it runs, and at its end.
#include "control/control_port.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>

#include "machine/machine.h"

namespace vireo::control {
namespace {

using qmp::Json;

// A machine whose guest does nothing, under softkvm; the test's thread is the machine's loop.
class ControlPortTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!kvm::soft_api()) GTEST_SKIP() << "no softkvm here";
    folder_ = testing::TempDir() + "vireo-control-test-XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    // A multiboot header that gives its addresses, and: jmp $
    constexpr uint32_t kMagic = 0x1badb002, kFlags = 1u << 16, kLoad = 0x100000;
    const uint32_t image[9] = {kMagic, kFlags, 0u - kMagic - kFlags, kLoad, kLoad, 0, 0, kLoad + 32, 0xfeeb};
    std::ofstream(folder_ + "/kernel", std::ios::binary).write(reinterpret_cast<const char*>(image), sizeof image);
    loop_ = std::move(*EventLoop::create());
    const MachineConfig config{.board = MachineConfig::BoardKind::kMicrovm, .cpus = 2, .memory = {.size = 16 << 20}, .boot = {.kernel = folder_ + "/kernel"}};
    auto machine = Machine::create(config, *kvm::soft_api(), *loop_, nullptr);
    ASSERT_TRUE(machine) << machine.error().message;
    machine_ = std::move(*machine);
    auto port = ControlPort::create({.package = "test", .identity = {}, .paths = {folder_ + "/qmp"}, .disks = {}}, *machine_);
    ASSERT_TRUE(port) << port.error().message;
    port_ = std::move(*port);
    port_->start();
  }
  void TearDown() override {
    port_.reset();
    machine_.reset();
    if (folder_.empty()) return;
    unlink((folder_ + "/kernel").c_str());
    rmdir(folder_.c_str());
  }
  OwnedFd connect() {
    OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (folder_ + "/qmp").copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_TRUE(hear(fd).contains("QMP"));
    say(fd, R"({"execute":"qmp_capabilities"})");
    EXPECT_TRUE(hear(fd).contains("return"));
    return fd;
  }
  static void say(OwnedFd& fd, const std::string& text) { EXPECT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size())); }
  // The next message, with the loop turning meanwhile; null when none comes within ten seconds.
  Json hear(OwnedFd& fd) {
    std::string line;
    for (int tries = 0; tries < 10'000 && !line.ends_with('\n');) {
      char c;
      if (recv(fd.get(), &c, 1, MSG_DONTWAIT) == 1) line += c;
      else ++tries, loop_->step(1);
    }
    return Json::parse(line, nullptr, false);
  }
  Json ask(OwnedFd& fd, const std::string& command) {
    say(fd, command);
    return hear(fd);
  }

  std::string folder_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<ControlPort> port_;
};

TEST_F(ControlPortTest, CommandsThatComeWhileItEndsMeetNoDisksThatAreGone) {
  OwnedFd fd = connect();
  std::string many;
  while (many.size() < 100'000) many += R"({"execute":"query-block"})";
  ASSERT_GT(send(fd.get(), many.data(), many.size(), MSG_NOSIGNAL | MSG_DONTWAIT), 50'000);
  port_.reset();
}

TEST_F(ControlPortTest, StopAndContTellTheirEventsBeforeTheyAnswer) {
  ASSERT_TRUE(machine_->start());
  OwnedFd fd = connect();
  EXPECT_EQ(ask(fd, R"({"execute":"stop"})").value("event", ""), "STOP");
  EXPECT_TRUE(hear(fd).contains("return"));
  EXPECT_TRUE(ask(fd, R"({"execute":"stop"})").contains("return"));
  EXPECT_EQ(ask(fd, R"({"execute":"cont"})").value("event", ""), "RESUME");
  EXPECT_TRUE(hear(fd).contains("return"));
}

TEST_F(ControlPortTest, CpusAreToldWithTheirThreads) {
  ASSERT_TRUE(machine_->start());
  OwnedFd fd = connect();
  const Json cpus = ask(fd, R"({"execute":"query-cpus-fast"})")["return"];
  ASSERT_EQ(cpus.size(), 2u);
  for (const Json& cpu : cpus) {
    std::string name;
    std::ifstream("/proc/self/task/" + std::to_string(cpu["thread-id"].get<int>()) + "/comm") >> name;
    EXPECT_EQ(name, "vcpu");
    EXPECT_TRUE(cpu["qom-path"].is_string());
  }
  EXPECT_NE(cpus[0]["thread-id"], cpus[1]["thread-id"]);
}

// As QEMU 7.2 answers, with -M none -S -qmp stdio.
TEST_F(ControlPortTest, ErrorsHaveTheClassesOfQemus) {
  OwnedFd fd = connect();
  auto error = [&](const std::string& command, const std::string& arguments) {
    const Json answer = ask(fd, R"({"execute":")" + command + R"(","arguments":{)" + arguments + "}}");
    return answer.contains("error") ? answer["error"]["class"].get<std::string>() + ": " + answer["error"]["desc"].get<std::string>() : answer.dump();
  };
  const std::string nowhere = "GenericError: Cannot find device='x' nor node-name='x'";
  EXPECT_EQ(error("block-stream", R"("device":"x")"), nowhere);
  EXPECT_EQ(error("drive-mirror", R"("device":"x","target":"/tmp/t","sync":"full")"), nowhere);
  EXPECT_EQ(error("drive-backup", R"("device":"x","target":"/tmp/t","sync":"full")"), nowhere);
  EXPECT_EQ(error("blockdev-snapshot-internal-sync", R"("device":"x","name":"y")"), nowhere);
  EXPECT_EQ(error("block-dirty-bitmap-add", R"("node":"x","name":"b")"), nowhere);
  EXPECT_EQ(error("blockdev-add", R"("driver":"qcow2","file":"x","node-name":"n")"), nowhere);
  EXPECT_EQ(error("blockdev-snapshot-sync", R"("device":"x","snapshot-file":"/tmp/t")"), "GenericError: Cannot find device='x' nor node-name=''");
  EXPECT_EQ(error("block_resize", R"("node-name":"x","size":1)"), "GenericError: Cannot find device='' nor node-name='x'");
  EXPECT_EQ(error("block-dirty-bitmap-clear", R"("node":"x","name":"b")"), "GenericError: Node 'x' not found");
  EXPECT_EQ(error("block-dirty-bitmap-merge", R"("node":"x","target":"b","bitmaps":["c"])"), "GenericError: Node 'x' not found");
  EXPECT_EQ(error("block-commit", R"("device":"x")"), "DeviceNotFound: Device 'x' not found");
  EXPECT_EQ(error("block_set_io_throttle", R"("device":"x","bps":0,"bps_rd":0,"bps_wr":0,"iops":0,"iops_rd":0,"iops_wr":0)"), "DeviceNotFound: Device 'x' not found");
  EXPECT_EQ(error("block-job-set-speed", R"("device":"x")"), "GenericError: Parameter 'speed' is missing");
  EXPECT_EQ(error("block-job-set-speed", R"("device":"x","speed":1)"), "DeviceNotActive: Block job 'x' not found");
  EXPECT_EQ(error("block-job-dismiss", R"("id":"x")"), "DeviceNotActive: Block job 'x' not found");
  EXPECT_EQ(error("job-dismiss", R"("id":"x")"), "GenericError: Job not found");
}

TEST_F(ControlPortTest, AJobsFirstEventsComeBeforeItsAnswer) {
  OwnedFd fd = connect();
  const std::string file = folder_ + "/made";
  Json first = ask(fd, R"({"execute":"blockdev-create","arguments":{"job-id":"j","options":{"driver":"file","size":4096,"filename":")" + file + R"("}}})");
  EXPECT_EQ(first["data"], (Json{{"id", "j"}, {"status", "created"}})) << first;
  EXPECT_EQ(hear(fd)["data"]["status"], "running");
  while (!first.contains("return") && !first.is_discarded()) first = hear(fd);
  unlink(file.c_str());
}

}  // namespace
}  // namespace vireo::control
