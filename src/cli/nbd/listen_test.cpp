// SPDX-License-Identifier: Apache-2.0
// Where `vireo nbd` listens, and what it leaves alone there.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/nbd/nbd.h"

namespace vireo::cli::nbd {
namespace {

class Listen : public testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(mkdtemp(folder_.data()), nullptr); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string folder_ = testing::TempDir() + "vireo-nbd-test-XXXXXX";
};

TEST_F(Listen, AFileThatIsNoSocketStays) {
  const std::string path = folder_ + "/disk.img";
  std::ofstream(path) << "precious";
  auto made = listen_unix(path);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().message, "--socket '" + path + "': it is there, and no socket");
  std::string text;
  std::ifstream(path) >> text;
  EXPECT_EQ(text, "precious");
}

TEST_F(Listen, ASymbolicLinkStays) {
  const std::string path = folder_ + "/link";
  std::ofstream(folder_ + "/disk.img") << "precious";
  std::filesystem::create_symlink("disk.img", path);
  EXPECT_FALSE(listen_unix(path));
  EXPECT_TRUE(std::filesystem::is_symlink(path));
}

TEST_F(Listen, ASocketIsTakenOverWhenNobodyAnswers) {
  const std::string path = folder_ + "/socket";
  auto first = listen_unix(path);
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_FALSE(listen_unix(path));
  first->reset();
  auto second = listen_unix(path);
  EXPECT_TRUE(second) << second.error().message;
}

TEST_F(Listen, PortsAreNumbersThatThereAre) {
  for (const char* port : {"0", "000", "65536", "99999999", "99999999999999999999999"}) {
    auto made = listen_tcp("127.0.0.1", port);
    ASSERT_FALSE(made) << port;
    EXPECT_EQ(made.error().message, std::string("--port '") + port + "': a number from 1 to 65535 is needed");
  }
}

}  // namespace
}  // namespace vireo::cli::nbd
