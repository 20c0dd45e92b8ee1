// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "storage/file/file.h"

namespace {
int g_fdatasync_fails = 0;  // with that error, once
}

// Goes before the C library's.
extern "C" int fdatasync(int fd) {
  if (int code = std::exchange(g_fdatasync_fails, 0)) {
    errno = code;
    return -1;
  }
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

namespace vireo::storage {
namespace {

// The kernel tells of what it could not write once, and takes it for clean then.
TEST(PosixFile, AfterAFlushThatFailedNoneSaysThatAllIsWell) {
  char path[] = "./vireo-file-test-XXXXXX";
  ASSERT_GE(close(mkstemp(path)), 0);
  {
    auto file = open_file({.path = path});
    ASSERT_TRUE(file);
    const std::vector<std::byte> data(512, std::byte{7});
    ASSERT_TRUE((*file)->write(0, data));
    ASSERT_TRUE((*file)->flush());
    g_fdatasync_fails = EIO;
    EXPECT_FALSE((*file)->flush());
    auto again = (*file)->flush();
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code, EIO);
  }
  unlink(path);
}

TEST(PosixFileDirect, AWriteInsideOfTheLastBlockDoesNotMakeTheFileLongerThanItReaches) {
  char path[] = "./vireo-file-test-XXXXXX";
  ASSERT_GE(close(mkstemp(path)), 0);
  ASSERT_TRUE(create_file(path, 4096 + 1000));
  {
    auto file = open_file({.path = path, .direct = true});
    if (!file) GTEST_SKIP() << file.error().message;
    const std::vector<std::byte> data(512, std::byte{7});
    ASSERT_TRUE((*file)->write(4096, data));
    EXPECT_EQ((*file)->size(), 4096u + 1000);
    ASSERT_TRUE((*file)->write(3900, data));
    EXPECT_EQ((*file)->size(), 4096u + 1000);
    ASSERT_TRUE((*file)->write(4096 + 900, data));
    EXPECT_EQ((*file)->size(), 4096u + 1412) << "it reaches so far";
    ASSERT_TRUE((*file)->write(10000, data));
    EXPECT_EQ((*file)->size(), 10512u);
    ASSERT_TRUE((*file)->flush());
    std::vector<std::byte> all(12288, std::byte{1});
    ASSERT_TRUE((*file)->read(0, all));
    for (size_t i = 0; i < all.size(); ++i)
      ASSERT_EQ(std::to_integer<int>(all[i]), (i >= 3900 && i < 4608) || (i >= 4996 && i < 5508) || (i >= 10000 && i < 10512) ? 7 : 0) << i;
  }
  unlink(path);
}

}  // namespace
}  // namespace vireo::storage
