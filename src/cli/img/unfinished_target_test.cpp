// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "cli/img/img.h"

namespace vireo::cli::img {
namespace {

class Interrupted : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::ifstream("/proc/self/syscall").good()) GTEST_SKIP() << "there is no /proc/PID/syscall here";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    source_ = folder_ + "/source";
    target_ = folder_ + "/target";
    std::ofstream(source_) << std::string(4 << 20, 's');
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // A conversion in a process of its own that has made its target and waits: its progress goes to a pipe that is full.
  // Returns how the signal ended it; `said_` is what it said on stderr.
  int convert(int signal, const std::vector<std::string>& options, bool ignored = false) {
    int progress[2], errors[2];
    EXPECT_EQ(pipe2(progress, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(errors, O_CLOEXEC), 0);
    fcntl(progress[1], F_SETFL, O_NONBLOCK);
    const std::string filler(4096, '.');
    while (write(progress[1], filler.data(), filler.size()) > 0) continue;
    while (write(progress[1], ".", 1) > 0) continue;
    fcntl(progress[1], F_SETFL, 0);
    const pid_t child = fork();
    if (child == 0) {
      std::signal(signal, ignored ? SIG_IGN : SIG_DFL);
      close(progress[0]);
      dup2(progress[1], STDOUT_FILENO);
      dup2(errors[1], STDERR_FILENO);
      std::vector<std::string> words{"vireo img", "convert", "-p", "-f", "raw"};
      words.insert(words.end(), options.begin(), options.end());
      words.insert(words.end(), {source_, target_});
      std::vector<char*> argv;
      for (std::string& word : words) argv.push_back(word.data());
      _exit(run(static_cast<int>(argv.size()), argv.data()));
    }
    close(progress[1]);
    close(errors[1]);
    // It sleeps in write(2) when the target has been made; the first line of its progress comes after that.
    const std::string state = "/proc/" + std::to_string(child) + "/syscall";
    for (;;) {
      std::ifstream in(state);
      std::string call, fd;
      if ((in >> call >> fd) && call == "1" && fd == "0x1") break;
      std::this_thread::yield();
    }
    EXPECT_TRUE(std::filesystem::exists(target_));
    kill(child, signal);
    if (ignored) close(progress[0]);  // goes on, into SIGPIPE
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    char text[4096];
    said_.clear();
    for (ssize_t got; (got = read(errors[0], text, sizeof text)) > 0;) said_.append(text, static_cast<size_t>(got));
    if (!ignored) close(progress[0]);
    close(errors[0]);
    return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
  }

  std::string folder_ = testing::TempDir() + "vireo-img-test-XXXXXX", source_, target_, said_;
};

TEST_F(Interrupted, ATargetThatWasMadeIsRemoved) {
  for (int signal : {SIGINT, SIGTERM, SIGHUP})
    for (const char* format : {"qcow2", "raw"}) {
      EXPECT_EQ(convert(signal, {"-O", format}), signal);
      EXPECT_FALSE(std::filesystem::exists(target_));
      EXPECT_EQ(said_, "vireo img: interrupted: '" + target_ + "' is removed, it was not complete\n");
    }
}

TEST_F(Interrupted, ADataFileThatWasMadeIsRemovedAsWell) {
  EXPECT_EQ(convert(SIGINT, {"-O", "qcow2", "-o", "data_file=" + folder_ + "/data"}), SIGINT);
  EXPECT_FALSE(std::filesystem::exists(target_));
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/data"));
}

TEST_F(Interrupted, ATargetThatWasThereStays) {
  for (const std::vector<std::string>& options : std::vector<std::vector<std::string>>{{"-O", "raw"}, {"-O", "raw", "-n"}}) {
    std::ofstream(target_) << std::string(4 << 20, 't');
    EXPECT_EQ(convert(SIGTERM, options), SIGTERM);
    EXPECT_TRUE(std::filesystem::exists(target_));
    EXPECT_EQ(said_, "vireo img: interrupted: '" + target_ + "' is not complete\n");
  }
}

TEST_F(Interrupted, AnIgnoredSignalIsIgnored) {
  EXPECT_NE(convert(SIGHUP, {"-O", "qcow2"}, true), SIGHUP);
  EXPECT_TRUE(std::filesystem::exists(target_));
  EXPECT_EQ(said_, "");
}

}  // namespace
}  // namespace vireo::cli::img
