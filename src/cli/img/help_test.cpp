// SPDX-License-Identifier: Apache-2.0
// The help of `vireo img` and of its commands.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cli/img/img.h"

namespace vireo::cli::img {
namespace {

std::string printed(std::vector<std::string> words) {
  words.insert(words.begin(), "vireo img");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  testing::internal::CaptureStdout();
  const int status = run(static_cast<int>(argv.size()), argv.data());
  const std::string out = testing::internal::GetCapturedStdout();
  return status == 0 ? out : "status " + std::to_string(status) + ": " + out;
}

TEST(ImgHelp, EveryCommandTellsItsUsage) {
  const std::string all = printed({"--help"});
  for (const char* command : {"amend", "bench", "bitmap", "check", "commit", "compare", "convert", "create", "dd", "info", "map", "measure", "rebase", "resize", "snapshot"}) {
    const std::string help = printed({command, "--help"}), begin = std::string("usage: vireo img ") + command + " ";
    ASSERT_TRUE(help.starts_with(begin)) << help;
    EXPECT_NE(all.find(std::string("  ") + command + " " + help.substr(begin.size())), std::string::npos) << help;
    EXPECT_EQ(printed({command, "-h"}), help);
  }
  EXPECT_EQ(printed({"create", "-f", "qcow2", "--help"}), printed({"create", "--help"}));
}

TEST(ImgHelp, EveryFormatIsNamed) { EXPECT_NE(printed({"--help"}).find("Supported formats: luks qcow2 raw\n"), std::string::npos); }

}  // namespace
}  // namespace vireo::cli::img
