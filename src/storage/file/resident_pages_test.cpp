// SPDX-License-Identifier: Apache-2.0
#include "storage/file/resident_pages.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <string>

#include "storage/file/file.h"

namespace vireo::storage {
namespace {

constexpr uint64_t kLength = 256 << 10;

class ResidentPagesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = ::testing::TempDir() + "resident_pages_" + std::to_string(getpid());
    fd_ = OwnedFd(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(fd_.valid());
    std::vector<std::byte> data(kLength);
    for (size_t i = 0; i < data.size(); ++i) data[i] = std::byte(i * 7 >> 3);
    ASSERT_EQ(pwrite(fd_.get(), data.data(), data.size(), 0), static_cast<ssize_t>(data.size()));
    ASSERT_EQ(fsync(fd_.get()), 0);
    pages_ = ResidentPages::open(fd_.get());
    if (!pages_) GTEST_SKIP() << "this host's kernel has no cachestat (Linux 6.5)";
  }
  void TearDown() override { unlink(path_.c_str()); }
  void forget(uint64_t offset, uint64_t length) { ASSERT_EQ(posix_fadvise(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(length), POSIX_FADV_DONTNEED), 0); }

  std::string path_;
  OwnedFd fd_;
  std::unique_ptr<ResidentPages> pages_;
};

TEST_F(ResidentPagesTest, TellsWhatTheCacheHas) {
  EXPECT_TRUE(pages_->has(0, kLength));
  EXPECT_TRUE(pages_->has(5000, 100));
  forget(0, kLength);
  if (pages_->has(0, kLength)) GTEST_SKIP() << "this file system keeps its pages";
  EXPECT_FALSE(pages_->has(kLength / 2, 4096));
  // A part comes back.
  posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_RANDOM);
  std::array<std::byte, 4096> block;
  ASSERT_EQ(pread(fd_.get(), block.data(), block.size(), 0), static_cast<ssize_t>(block.size()));
  EXPECT_TRUE(pages_->has(0, 4096));
  EXPECT_FALSE(pages_->has(0, kLength));
  EXPECT_FALSE(pages_->has(kLength - 4096, 8192)) << "the file ends there";
}

TEST_F(ResidentPagesTest, AsksAgainAfterALongTimeOfMisses) {
  forget(0, kLength);
  if (pages_->has(0, kLength)) GTEST_SKIP() << "this file system keeps its pages";
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(pages_->has(0, 4096));
  std::array<std::byte, 4096> block;
  ASSERT_EQ(pread(fd_.get(), block.data(), block.size(), 0), static_cast<ssize_t>(block.size()));
  int asked = 0;
  while (!pages_->has(0, 4096) && asked < 1000) ++asked;
  EXPECT_LT(asked, 100);
  EXPECT_TRUE(pages_->has(0, 4096)) << "and then each time";
}

// What is read past the cache is the same, and does not come into it.
TEST_F(ResidentPagesTest, ReadsAreTheSame) {
  auto direct = open_file({.path = path_, .read_only = true, .direct = true, .lock = false});
  if (!direct) GTEST_SKIP() << direct.error().message;
  auto plain = open_file({.path = path_, .read_only = true, .lock = false});
  ASSERT_TRUE(plain);
  std::vector<std::byte> a(60 << 10), b(a.size());
  for (bool cached : {true, false}) {
    if (!cached) forget(0, kLength);
    ASSERT_TRUE((*direct)->read(12288, a));
    EXPECT_EQ(pages_->has(12288, a.size()), cached);
    ASSERT_TRUE((*plain)->read(12288, b));
    EXPECT_EQ(a, b);
  }
}

}  // namespace
}  // namespace vireo::storage
