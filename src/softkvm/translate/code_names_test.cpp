// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/code_names.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace vireo::softkvm {
namespace {

std::string bytes_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void expect_private(const std::string& path) {
  struct stat about;
  ASSERT_EQ(lstat(path.c_str(), &about), 0);
  EXPECT_TRUE(S_ISREG(about.st_mode));
  EXPECT_EQ(about.st_mode & 077, 0u);
}

template <class T>
T at(const std::string& bytes, size_t offset) {
  T value;
  memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// One test: files are opened once in a process. Both are read back as their formats' descriptions have them.
TEST(CodeNames, blocks_are_named_in_files_of_their_own_that_others_cannot_read) {
  char name[] = "/tmp/code_names_test.XXXXXX";
  const std::string folder = mkdtemp(name);
  const std::string pid = std::to_string(getpid()), map = "/tmp/perf-" + pid + ".map", dump = folder + "/jit-" + pid + ".dump";
  const std::string trap = folder + "/trap", symbols = folder + "/System.map";
  unlink(map.c_str());
  ASSERT_EQ(symlink(trap.c_str(), map.c_str()), 0);  // whoever may write to /tmp can lay one
  ASSERT_EQ(symlink(trap.c_str(), dump.c_str()), 0);
  std::ofstream(symbols) << "ffffffff81000000 T startup_64\n";
  EXPECT_FALSE(name_code({false, folder + "/none", ""}));
  EXPECT_FALSE(name_code({false, "", folder + "/none"}));
  EXPECT_FALSE(code_is_named());
  auto done = name_code({true, folder, symbols});
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_TRUE(code_is_named());

  static const char first[] = "\x90\xc3", second[] = "\xcc\x90\xc3";
  name_block(first, 2, 0xffffffff81000010, false);
  name_block(second, 3, 0xffffffff81000010, true);  // symbols are the kernel's
  char wanted[256];
  snprintf(wanted, sizeof wanted, "%lx 2 guest_kernel_ffffffff81000010_startup_64+0x10\n%lx 3 guest_user_ffffffff81000010\n",
           reinterpret_cast<uintptr_t>(first), reinterpret_cast<uintptr_t>(second));
  EXPECT_EQ(bytes_of(map), wanted);
  expect_private(map);

  // Linux, tools/perf/Documentation/jitdump-specification.txt
  const std::string bytes = bytes_of(dump);
  expect_private(dump);
  ASSERT_GE(bytes.size(), 40u);
  EXPECT_EQ(at<uint32_t>(bytes, 0), 0x4a695444u);
  EXPECT_EQ(at<uint32_t>(bytes, 4), 1u);
  EXPECT_EQ(at<uint32_t>(bytes, 8), 40u);
  EXPECT_EQ(at<uint32_t>(bytes, 12), 62u);  // EM_X86_64
  EXPECT_EQ(at<uint32_t>(bytes, 20), static_cast<uint32_t>(getpid()));
  EXPECT_EQ(at<uint64_t>(bytes, 32), 0u);
  size_t record = 40;
  uint64_t time = at<uint64_t>(bytes, 24), index = 0;
  for (const auto& [code, size, text] : {std::tuple(first, 2u, "guest_kernel_ffffffff81000010_startup_64+0x10"), std::tuple(second, 3u, "guest_user_ffffffff81000010")}) {
    ASSERT_GE(bytes.size(), record + 56);
    EXPECT_EQ(at<uint32_t>(bytes, record), 0u);  // JIT_CODE_LOAD
    const uint32_t total = at<uint32_t>(bytes, record + 4);
    ASSERT_EQ(total, 56 + strlen(text) + 1 + size);
    ASSERT_GE(bytes.size(), record + total);
    EXPECT_GE(at<uint64_t>(bytes, record + 8), time);
    time = at<uint64_t>(bytes, record + 8);
    EXPECT_EQ(at<uint32_t>(bytes, record + 16), static_cast<uint32_t>(getpid()));
    EXPECT_EQ(at<uint32_t>(bytes, record + 20), static_cast<uint32_t>(gettid()));
    EXPECT_EQ(at<uint64_t>(bytes, record + 24), reinterpret_cast<uintptr_t>(code));
    EXPECT_EQ(at<uint64_t>(bytes, record + 32), reinterpret_cast<uintptr_t>(code));
    EXPECT_EQ(at<uint64_t>(bytes, record + 40), size);
    EXPECT_EQ(at<uint64_t>(bytes, record + 48), index++);
    EXPECT_STREQ(bytes.data() + record + 56, text);
    EXPECT_EQ(bytes.substr(record + total - size, size), std::string(code, size));
    record += total;
  }
  EXPECT_EQ(record, bytes.size());
  // perf record notes executable mappings.
  std::string line;
  bool mapped = false;
  for (std::ifstream maps("/proc/self/maps"); std::getline(maps, line);) mapped |= line.ends_with(dump) && line.find(" r-xp 00000000 ") != std::string::npos;
  EXPECT_TRUE(mapped);
  EXPECT_NE(access(trap.c_str(), F_OK), 0);
  unlink(map.c_str());
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace vireo::softkvm
