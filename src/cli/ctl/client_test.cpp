// SPDX-License-Identifier: Apache-2.0
// `vireo ctl` among machines that answer, and that do not.
#include "cli/ctl/client.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "cli/ctl/ctl.h"
#include "control/qmp/server.h"

namespace vireo::cli::ctl {
namespace {

using control::qmp::Answer;
using control::qmp::Arguments;

class Machines : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "vireo-ctl-test-XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    if (const char* before = getenv("XDG_RUNTIME_DIR")) before_ = before;
    setenv("XDG_RUNTIME_DIR", folder_.c_str(), 1);
    ASSERT_EQ(mkdir((folder_ + "/vireo").c_str(), 0700), 0);
    loop_ = std::move(*EventLoop::create());
    server_ = std::make_unique<control::qmp::Server>(*loop_, "test");
    server_->add("query-name", [](Arguments&) -> Answer { return Json{{"name", "a"}}; });
    server_->add("query-status", [](Arguments&) -> Answer { return Json{{"status", "running"}}; });
    ASSERT_TRUE(server_->listen(path(2000000001)));
    // One that is stopped: its socket takes connections, and nobody answers.
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path(2000000002).copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(bind(stopped_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(listen(stopped_.get(), 1), 0);
    thread_ = std::thread([this] { loop_->run(); });
  }
  void TearDown() override {
    loop_->stop();
    thread_.join();
    server_.reset();
    if (before_.empty()) unsetenv("XDG_RUNTIME_DIR");
    else setenv("XDG_RUNTIME_DIR", before_.c_str(), 1);
    std::filesystem::remove_all(folder_);
  }
  std::string path(int process) { return folder_ + "/vireo/" + std::to_string(process) + ".control"; }
  static Result<int> ctl(std::vector<std::string> words) {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    return run(static_cast<int>(argv.size()), argv.data());
  }
  std::string folder_, before_;
  std::atomic<bool> fails_ = false;
  std::atomic<int> asked_ = 0;
  OwnedFd stopped_{socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<control::qmp::Server> server_;
  std::thread thread_;
};

TEST_F(Machines, OneThatDoesNotAnswerHoldsUpNoOther) {
  std::vector<Running> here;
  for (Running& one : running_machines())
    if (one.process > 2000000000) here.push_back(std::move(one));
  ASSERT_EQ(here.size(), 2u);
  for (const Running& one : here) EXPECT_EQ(one.answers, one.process == 2000000001);
  auto named = find_socket("a");
  ASSERT_TRUE(named) << named.error().message;
  EXPECT_EQ(*named, path(2000000001));
  auto other = find_socket("b");
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message.find("2000000002 (which does not answer)"), std::string::npos) << other.error().message;
  EXPECT_TRUE(ctl({"a", "status"}));
}

TEST_F(Machines, ANumberIsThatMachineAndTheOthersAreNotAsked) {
  EXPECT_EQ(find_socket("2000000002").value(), path(2000000002));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(find_socket("2000000001").value(), path(2000000001));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(500));
  auto client = Client::connect(path(2000000002), 1);
  ASSERT_FALSE(client);
  EXPECT_NE(client.error().message.find("does not answer"), std::string::npos) << client.error().message;
}

TEST_F(Machines, WaitEndsWithAJobThatStaysConcluded) {
  loop_->call([&] {
    server_->add("block-stream", [](Arguments&) -> Answer { return Json::object(); });
    server_->add("query-block-jobs", [this](Arguments&) -> Answer {
      Json job{{"device", "disk0"}, {"type", "stream"}, {"len", 1}, {"offset", 0}, {"ready", false}, {"status", "concluded"}};
      if (fails_) job["error"] = "No space left on device";
      else server_->emit("BLOCK_JOB_COMPLETED", {{"device", "disk0"}});
      // A waiting that does not end, ends so.
      return ++asked_ > 20 ? Answer(Json::array()) : Answer(Json::array({job}));
    });
  });
  auto good = ctl({"2000000001", "block", "stream", "disk0", "auto-dismiss=false", "--wait"});
  EXPECT_TRUE(good) << good.error().message;
  EXPECT_EQ(asked_, 1);
  fails_ = true;
  auto bad = ctl({"2000000001", "block", "stream", "disk0", "auto-dismiss=false", "--wait"});
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().message, "ctl: No space left on device");
}

TEST_F(Machines, WaitEndsWithAJobThatWaitsToBeFinalized) {
  loop_->call([&] {
    server_->add("block-stream", [](Arguments&) -> Answer { return Json::object(); });
    server_->add("query-block-jobs", [this](Arguments&) -> Answer {
      // First in passing, as every job is for a moment.
      Json job{{"device", "disk0"}, {"ready", false}, {"status", "pending"}, {"auto-finalize", asked_ == 0}};
      return ++asked_ > 20 ? Answer(Json::array()) : Answer(Json::array({job}));
    });
  });
  auto good = ctl({"2000000001", "block", "stream", "disk0", "--wait"});
  EXPECT_TRUE(good) << good.error().message;
  EXPECT_EQ(asked_, 2);
}

TEST_F(Machines, ADiskIsMadeSmallerOnlyWhereThatIsSaid) {
  std::vector<uint64_t> sizes;
  loop_->call([&] {
    server_->add("query-block", [](Arguments&) -> Answer {
      return Json::array({{{"device", "disk1"}, {"inserted", {{"image", {{"virtual-size", 512}}}}}},
                          {{"device", "disk0"}, {"inserted", {{"image", {{"virtual-size", 2 << 20}}}}}}});
    });
    server_->add("block_resize", [&sizes](Arguments& a) -> Answer {
      a.take("device");
      sizes.push_back(a.take("size").value_or(Json()).get<uint64_t>());
      return Json::object();
    });
  });
  for (std::vector<std::string> smaller : {std::vector<std::string>{"disk0", "1M"}, {"disk0", "1024"}, {"disk0", "1M", "shrink=false"}}) {
    smaller.insert(smaller.begin(), {"2000000001", "block", "resize"});
    auto made = ctl(smaller);
    ASSERT_FALSE(made);
    EXPECT_NE(made.error().message.find("would be lost"), std::string::npos) << made.error().message;
  }
  EXPECT_TRUE(sizes.empty());
  for (std::vector<std::string> words : {std::vector<std::string>{"disk0", "4M"}, {"disk0", "1M", "shrink=true"}}) {
    words.insert(words.begin(), {"2000000001", "block", "resize"});
    auto made = ctl(words);
    EXPECT_TRUE(made) << made.error().message;
  }
  EXPECT_EQ(sizes, (std::vector<uint64_t>{4 << 20, 1 << 20}));
}

TEST_F(Machines, TheSecondOfTwoWordsIsAskedFor) {
  for (const std::vector<std::string>& words : {std::vector<std::string>{"block"}, {"block", "foo"}, {"a", "block"}, {"a", "block", "foo"}}) {
    auto made = ctl(words);
    ASSERT_FALSE(made);
    EXPECT_TRUE(made.error().message.starts_with("ctl block: is followed by one of list, nodes, ")) << made.error().message;
  }
  EXPECT_EQ(ctl({"a", "foo"}).error().message, "ctl: unknown command foo (see vireo ctl --help)");
}

TEST_F(Machines, FilesAreNamedFromHereAndNotWrittenOver) {
  std::vector<std::string> files;
  loop_->call([&] {
    server_->add("drive-backup", [&files](Arguments& a) -> Answer {
      for (const char* name : {"device", "sync", "mode"}) a.take(name);
      files.push_back(a.take("target").value_or(Json()).get<std::string>());
      return Json::object();
    });
  });
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder_);
  std::ofstream("there.img") << "precious";
  auto backup = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"2000000001", "block", "backup", "disk0"});
    return ctl(more);
  };
  auto over = backup({"there.img"});
  auto fresh = backup({"new.img"}), whole = backup({folder_ + "/new.img"}), wanted = backup({"there.img", "mode=existing"}), remote = backup({"nbd://host/a"});
  std::filesystem::current_path(before);
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().message, "ctl block backup: there.img is there already; mode=absolute-paths writes over it, mode=existing takes it as it is");
  EXPECT_TRUE(fresh && whole && wanted && remote);
  const std::string here = std::filesystem::canonical(folder_);
  EXPECT_EQ(files, (std::vector<std::string>{here + "/new.img", folder_ + "/new.img", here + "/there.img", "nbd://host/a"}));
}

TEST_F(Machines, WhatIsNoJsonIsNotWaitedFor) {
  for (const char* text : {"{garbage", "{\"execute\":\"query-status\"", "{\"execute\":\"query-status\"}{"}) {
    auto made = ctl({"2000000001", "qmp", text});
    ASSERT_FALSE(made) << text;
    EXPECT_EQ(made.error().message, std::string("ctl qmp: ") + text + ": not one JSON value");
  }
  EXPECT_TRUE(ctl({"2000000001", "qmp", "{\"execute\":\"query-status\"}"}));
}

}  // namespace
}  // namespace vireo::cli::ctl
