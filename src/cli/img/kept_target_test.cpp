// SPDX-License-Identifier: Apache-2.0
// A file that is there is not emptied by a command that cannot go on.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "cli/img/img.h"

namespace vireo::cli::img {
namespace {

class KeptTarget : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    before_ = std::filesystem::current_path();
    std::filesystem::current_path(folder_);
    std::ofstream("source") << std::string(1 << 20, 's');
    std::ofstream("there") << text_;
    std::filesystem::create_symlink("there", "link");
  }
  void TearDown() override {
    std::filesystem::current_path(before_);
    std::filesystem::remove_all(folder_);
  }
  // Standard error of a command that must fail, and leave the file.
  std::string refused(std::vector<std::string> words) {
    words.insert(words.begin(), "vireo img");
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int status = run(static_cast<int>(argv.size()), argv.data());
    testing::internal::GetCapturedStdout();
    const std::string said = testing::internal::GetCapturedStderr();
    EXPECT_EQ(status, 1) << said;
    std::ifstream in("there");
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), text_) << said;
    return said;
  }
  std::string folder_ = testing::TempDir() + "vireo-img-test-XXXXXX";
  const std::string text_ = std::string(1 << 16, 'p');
  std::filesystem::path before_;
};

TEST_F(KeptTarget, AnOverlayOverItself) {
  for (const char* name : {"there", "./there", "link"})
    EXPECT_NE(refused({"create", "-f", "qcow2", "-b", "there", "-F", "raw", name}).find("same filename as the backing file"), std::string::npos) << name;
  EXPECT_NE(refused({"create", "-f", "qcow2", "-u", "-b", "there", "-F", "raw", "there", "1M"}).find("same filename"), std::string::npos);
  EXPECT_NE(refused({"create", "-f", "qcow2", "-u", "-b", "new", "-F", "raw", "new", "1M"}).find("same filename"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists("new"));
}

TEST_F(KeptTarget, AnOverlayOverWhatLiesOverIt) {
  auto img = [](std::vector<std::string> words) {
    words.insert(words.begin(), "vireo img");
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    return run(static_cast<int>(argv.size()), argv.data());
  };
  auto bytes = [](const char* name) {
    std::ifstream in(name);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  ASSERT_EQ(img({"create", "-q", "-f", "qcow2", "a", "1M"}), 0);
  ASSERT_EQ(img({"create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2", "b"}), 0);
  ASSERT_EQ(img({"create", "-q", "-f", "qcow2", "-b", "b", "-F", "qcow2", "c"}), 0);
  const std::string before = bytes("a");
  for (const char* unsafe : {"-u", "-q"}) {
    EXPECT_EQ(refused({"rebase", unsafe, "-b", "a", "-F", "qcow2", "./a"}), "vireo img: Could not change the backing file to 'a': it is the image itself\n");
    EXPECT_EQ(refused({"rebase", unsafe, "-b", "c", "-F", "qcow2", "a"}), "vireo img: Could not change the backing file to 'c': the image is a backing file of it\n");
    EXPECT_EQ(refused({"create", unsafe, "-f", "qcow2", "-b", "c", "-F", "qcow2", "a", "1M"}), "vireo img: a: it is a backing file of 'c' and cannot be an overlay over it\n");
  }
  EXPECT_EQ(bytes("a"), before);
  EXPECT_EQ(img({"rebase", "-u", "-b", "a", "-F", "qcow2", "c"}), 0);
  EXPECT_EQ(img({"rebase", "-u", "-b", "gone", "-F", "qcow2", "c"}), 0);
}

TEST_F(KeptTarget, ADataFileThatIsTheImage) { EXPECT_NE(refused({"create", "-f", "qcow2", "-o", "data_file=there", "there", "1M"}).find("the image itself"), std::string::npos); }

TEST_F(KeptTarget, EncryptionWithoutAPassword) {
  EXPECT_NE(refused({"create", "-f", "qcow2", "-o", "encrypt.format=luks", "there", "1M"}).find("key-secret"), std::string::npos);
  EXPECT_NE(refused({"convert", "-f", "raw", "-O", "qcow2", "-o", "encrypt.format=aes", "source", "there"}).find("key-secret"), std::string::npos);
}

TEST_F(KeptTarget, ACacheModeOrASizeThatCannotBe) {
  EXPECT_NE(refused({"convert", "-f", "raw", "-O", "raw", "-t", "foo", "source", "there"}).find("Invalid cache option: foo"), std::string::npos);
  EXPECT_NE(refused({"convert", "-f", "raw", "-O", "qcow2", "-o", "size=64k", "source", "there"}).find("smaller than input"), std::string::npos);
}

}  // namespace
}  // namespace vireo::cli::img
