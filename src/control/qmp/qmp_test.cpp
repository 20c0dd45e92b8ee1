// SPDX-License-Identifier: Apache-2.0
// Framing, negotiation, answers and events, over a real socket, with what QEMU's docs/interop/qmp-spec says.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <ctime>
#include <thread>

#include "control/qmp/dump_file.h"
#include "control/qmp/server.h"

namespace vireo::control::qmp {
namespace {

std::vector<std::string> frames(Framer& framer, std::string_view bytes) {
  std::vector<std::string> out;
  framer.add(bytes);
  for (;;) {
    auto value = framer.next();
    if (!value) {
      out.push_back("error: " + value.error().message);
      return out;
    }
    if (!*value) return out;
    out.push_back(**value);
  }
}

TEST(FramerTest, SeveralValuesOnALineAreApart) {
  Framer framer;
  EXPECT_EQ(frames(framer, R"({"a":"}{\"]"}{"b":[1]}  {"c":2})"), (std::vector<std::string>{R"({"a":"}{\"]"})", R"({"b":[1]})", R"({"c":2})"}));
}

TEST(FramerTest, OneValueOverSeveralPiecesIsWhole) {
  Framer framer;
  const std::string text = "\n {\"execute\": \"x\\\"}\",\n \"id\": [1, {\"y\": 2}]}\n";
  std::vector<std::string> all;
  for (char c : text)
    for (auto& value : frames(framer, {&c, 1})) all.push_back(value);
  EXPECT_EQ(all, std::vector<std::string>{"{\"execute\": \"x\\\"}\",\n \"id\": [1, {\"y\": 2}]}"});
}

TEST(FramerTest, DepthAndLengthAreBounded) {
  Framer framer;
  EXPECT_EQ(frames(framer, std::string(100000, '[')), std::vector<std::string>{"error: JSON nesting depth limit exceeded"});
  EXPECT_EQ(frames(framer, "{}"), std::vector<std::string>{"{}"});
  EXPECT_EQ(frames(framer, "\"" + std::string(Framer::kLongest + 1, 'x')), std::vector<std::string>{"error: JSON token size limit exceeded"});
  EXPECT_EQ(frames(framer, "} nonsense 12 {\"a\":1}"), (std::vector<std::string>{"}", "nonsense", "12", "{\"a\":1}"}));
}

class ServerTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "vireo-qmp-test-XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    path_ = folder_ + "/qmp";
    loop_ = std::move(*EventLoop::create());
    server_ = std::make_unique<Server>(*loop_, "test");
    server_->add("echo", [](Arguments& arguments) -> Answer {
      auto what = QMP_TRY(arguments.text("what"));
      QMP_TRY(arguments.end());
      return Json{{"said", what}};
    });
    server_->add("twice", [this](Arguments&) -> Answer {
      server_->emit("SAID", {{"x", 1}});
      return Json::object();
    });
    ASSERT_TRUE(server_->listen(path_));
    thread_ = std::thread([this] { loop_->run(); });
  }
  void TearDown() override {
    loop_->stop();
    thread_.join();
    server_.reset();
    EXPECT_NE(access(path_.c_str(), F_OK), 0);
    rmdir(folder_.c_str());
  }
  OwnedFd connect() {
    OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, path_.size());
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  static void say(OwnedFd& fd, const std::string& text) { EXPECT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size())); }
  // The next message, or null when none comes within two seconds or the other side hangs up.
  static Json hear(OwnedFd& fd) {
    std::string line;
    for (char c = 0; c != '\n';) {
      pollfd waiting{fd.get(), POLLIN, 0};
      if (poll(&waiting, 1, 2000) != 1 || recv(fd.get(), &c, 1, 0) != 1) return {};
      line += c;
    }
    return Json::parse(line, nullptr, false);
  }
  std::string folder_, path_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

TEST_F(ServerTest, GreetsThenNegotiatesThenAnswersInOrderWithIds) {
  OwnedFd fd = connect();
  Json greeting = hear(fd);
  EXPECT_EQ(greeting["QMP"]["version"]["qemu"]["major"], 7);
  EXPECT_EQ(greeting["QMP"]["version"]["package"], "test");
  EXPECT_TRUE(greeting["QMP"]["capabilities"].is_array());
  say(fd, R"({"execute":"echo","arguments":{"what":"a"},"id":0})");
  EXPECT_EQ(hear(fd)["error"]["class"], "CommandNotFound");
  say(fd, R"({"execute":"qmp_capabilities"}{"execute":"echo","arguments":{"what":"a"},"id":{"n":[1]}} {"execute":"nothing","id":"z"})");
  EXPECT_EQ(hear(fd), (Json{{"return", Json::object()}}));
  EXPECT_EQ(hear(fd), (Json{{"return", {{"said", "a"}}}, {"id", {{"n", {1}}}}}));
  EXPECT_EQ(hear(fd), (Json{{"error", {{"class", "CommandNotFound"}, {"desc", "The command nothing has not been found"}}}, {"id", "z"}}));
}

TEST_F(ServerTest, WrongArgumentsAreNamed) {
  OwnedFd fd = connect();
  hear(fd);
  say(fd, R"({"execute":"qmp_capabilities"})");
  hear(fd);
  auto complaint = [&](const std::string& arguments) {
    say(fd, R"({"execute":"echo","arguments":)" + arguments + "}");
    return hear(fd)["error"]["desc"].get<std::string>();
  };
  EXPECT_EQ(complaint("{}"), "Parameter 'what' is missing");
  EXPECT_EQ(complaint(R"({"what":1})"), "Invalid parameter type for 'what', expected: string");
  EXPECT_EQ(complaint(R"({"what":"a","more":1})"), "Parameter 'more' is unexpected");
  EXPECT_EQ(complaint("[]"), "QMP input member 'arguments' must be an object");
  say(fd, "{\"execute\" 7}");
  EXPECT_EQ(hear(fd)["error"]["desc"], "JSON parse error, invalid syntax");
}

TEST_F(ServerTest, EventsComeToThoseWhoNegotiatedWithTheTime) {
  OwnedFd quiet = connect(), fd = connect();
  hear(quiet);
  hear(fd);
  say(fd, R"({"execute":"qmp_capabilities"}{"execute":"twice"})");
  hear(fd);
  Json event = hear(fd);
  EXPECT_EQ(event["event"], "SAID");
  EXPECT_EQ(event["data"]["x"], 1);
  EXPECT_GT(event["timestamp"]["seconds"], 1'600'000'000);
  EXPECT_EQ(hear(fd), (Json{{"return", Json::object()}}));
  pollfd waiting{quiet.get(), POLLIN, 0};
  EXPECT_EQ(poll(&waiting, 1, 50), 0);
}

TEST_F(ServerTest, TheSocketIsTheUsersAlone) {
  struct stat st;
  ASSERT_EQ(stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
}

TEST_F(ServerTest, WhoLeavesEverythingUnreadIsGivenUp) {
  OwnedFd fd = connect();
  say(fd, R"({"execute":"qmp_capabilities"})");
  loop_->call([&] {
    for (int i = 0; i < 40; ++i) server_->emit("LONG", {{"text", std::string(1 << 20, 'x')}});
  });
  OwnedFd other = connect();
  EXPECT_TRUE(hear(other).contains("QMP"));
}

// As in QEMU: what a client sent before it left, or stopped reading, is done.
TEST_F(ServerTest, WhatWasSaidByWhoReadsNoMoreIsDone) {
  std::atomic<int> done{0};
  loop_->call([&] {
    server_->add("count", [&](Arguments&) -> Answer { return done++, Json::object(); });
  });
  {
    OwnedFd fd = connect();
    hear(fd);
    ASSERT_EQ(shutdown(fd.get(), SHUT_RD), 0);
    say(fd, R"({"execute":"qmp_capabilities"}{"execute":"count"})");
    say(fd, R"({"execute":"count"}{"execute":"count"})");
    while (done < 3) std::this_thread::yield();
  }
  loop_->call([&] {  // while nobody is greeted
    OwnedFd fd = connect();
    say(fd, R"({"execute":"qmp_capabilities"}{"execute":"count"})");
  });
  while (done < 4) std::this_thread::yield();
}

TEST_F(ServerTest, WhatIsPostedDuringACommandComesBeforeItsAnswer) {
  loop_->call([&] {
    server_->add("poster", [this](Arguments&) -> Answer {
      std::thread([this] { server_->post("FIRST"); }).join();
      server_->emit("SECOND");
      server_->post("THIRD");
      return Json::object();
    });
  });
  OwnedFd fd = connect();
  hear(fd);
  say(fd, R"({"execute":"qmp_capabilities"}{"execute":"poster"})");
  hear(fd);
  for (const char* event : {"FIRST", "SECOND", "THIRD"}) EXPECT_EQ(hear(fd).value("event", ""), event);
  EXPECT_TRUE(hear(fd).contains("return"));
  server_->post("LAST");
  EXPECT_EQ(hear(fd).value("event", ""), "LAST");
}

TEST_F(ServerTest, WhenItServesNoMoreEventsStillGoOut) {
  OwnedFd fd = connect();
  hear(fd);
  say(fd, R"({"execute":"qmp_capabilities"})");
  hear(fd);
  loop_->call([&] { server_->stop_serving(); });
  EXPECT_NE(access(path_.c_str(), F_OK), 0);
  say(fd, R"({"execute":"twice"})");
  server_->post("LAST");
  EXPECT_EQ(hear(fd).value("event", ""), "LAST");
}

TEST_F(ServerTest, WithoutDescriptorsAListenerWaitsAndCostsNothing) {
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, path_.size());
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 3, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const clock_t start = clock();
  const bool connected = ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  usleep(300'000);
  const clock_t used = clock() - start;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(connected);
  EXPECT_LT(used, CLOCKS_PER_SEC / 10);
  EXPECT_TRUE(hear(fd).contains("QMP"));
}

TEST(DumpFileTest, AFifoWithoutAReaderIsRefusedAndOneThatIsNotReadIsGivenUp) {
  std::string folder = testing::TempDir() + "vireo-dump-test-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/fifo";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  auto answer = write_dump(path, "x");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().text, "failed to open file '" + path + "': No such device or address");
  OwnedFd reader(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  EXPECT_TRUE(write_dump(path, "x"));
  EXPECT_FALSE(write_dump(path, std::string(1 << 20, 'x')));
  unlink(path.c_str());
  EXPECT_TRUE(write_dump(path, "x"));
  unlink(path.c_str());
  rmdir(folder.c_str());
}

}  // namespace
}  // namespace vireo::control::qmp
