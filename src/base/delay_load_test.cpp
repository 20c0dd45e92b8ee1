// SPDX-License-Identifier: Apache-2.0
#include "base/delay_load.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

VIREO_DELAY_LOADED(test_open);
VIREO_DELAY_LOADED(test_print);
extern "C" void vireo_delay_load_now(vireo::DelayedLibrary*);

namespace vireo {
namespace {

// zlib under two names: gzprintf's own is loaded by the call whose arguments are looked at.
TEST(DelayLoad, FirstCallKeepsItsArguments) {
  char path[] = "/tmp/vireo-delay-load-XXXXXX";
  int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(vireo_delay_load_test_open.loaded, 0u);
  gzFile file = gzopen(path, "wT");
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(vireo_delay_load_test_open.loaded, 1u);
  ASSERT_EQ(vireo_delay_load_test_print.loaded, 0u);
  // In registers: two that are named, four integers, eight floating-point numbers. On the stack: two and two more.
  constexpr const char* kFormat = "%d %d %d %d %d %d %g %g %g %g %g %g %g %g %g %g\n";
  for (int i = 0; i < 2; ++i) EXPECT_GT(gzprintf(file, kFormat, 1, -2, 3, -4, 5, -6, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5), 0);
  EXPECT_EQ(vireo_delay_load_test_print.loaded, 1u);
  EXPECT_EQ(gzclose(file), Z_OK);
  std::string text(1000, 0);
  text.resize(static_cast<size_t>(std::max<ssize_t>(::read(fd, text.data(), text.size()), 0)));
  const std::string line = "1 -2 3 -4 5 -6 0.5 1.5 2.5 3.5 4.5 5.5 6.5 7.5 8.5 9.5\n";
  EXPECT_EQ(text, line + line);
  close(fd);
  unlink(path);
}

TEST(DelayLoad, MissingLibraryIsAnErrorThatNamesIt) {
  void* slots[1] = {};
  DelayedLibrary absent{"libvireo-absent.so.7", "absent\0\0", slots, 0};
  for (int i = 0; i < 2; ++i) {
    auto result = load_library(absent);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().kind, ErrorKind::kUnsupported);
    EXPECT_NE(result.error().message.find("libvireo-absent.so.7: "), std::string::npos) << result.error().message;
  }
  EXPECT_DEATH(vireo_delay_load_now(&absent), "vireo: libvireo-absent.so.7: ");
}

TEST(DelayLoad, MissingFunctionOrVersionIsAnError) {
  void* slots[2] = {};
  DelayedLibrary no_function{"libz.so.1", "inflateCopy\0ZLIB_1.2.0\0vireo_absent\0\0", slots, 0};
  auto result = load_library(no_function);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("vireo_absent"), std::string::npos) << result.error().message;
  EXPECT_EQ(slots[0], nullptr);
  DelayedLibrary no_version{"libz.so.1", "inflateCopy\0ZLIB_0\0", slots, 0};
  result = load_library(no_version);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("ZLIB_0"), std::string::npos) << result.error().message;
  EXPECT_EQ(slots[0], nullptr);
}

TEST(DelayLoad, ThreadsThatStartAtOnceFindItWhole) {
  for (int round = 0; round < 20; ++round) {
    void* slots[2] = {};
    DelayedLibrary library{"libz.so.1", "inflateCopy\0ZLIB_1.2.0\0inflateMark\0ZLIB_1.2.3.4\0", slots, 0};
    std::vector<std::thread> threads;
    std::atomic<int> whole = 0;
    for (int i = 0; i < 4; ++i) threads.emplace_back([&] { whole += load_library(library) && slots[0] && slots[1] && slots[0] != slots[1]; });
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(whole, 4);
  }
}

}  // namespace
}  // namespace vireo
