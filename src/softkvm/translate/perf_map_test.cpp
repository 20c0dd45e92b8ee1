// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/perf_map.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

using vireo::softkvm::perf_map_add;

// One test: the map is opened once in a process.
TEST(PerfMap, blocks_are_named_in_a_file_of_its_own_that_others_cannot_read) {
  std::string path = "/tmp/perf-" + std::to_string(getpid()) + ".map", trap = path + ".trap";
  unlink(path.c_str());
  ASSERT_EQ(symlink(trap.c_str(), path.c_str()), 0);  // whoever may write to /tmp can lay one
  setenv("VIREO_PERF_MAP", "1", 1);
  perf_map_add(reinterpret_cast<const void*>(0x7f0000001000), 0x40, 0xffffffff81000010, false);
  perf_map_add(reinterpret_cast<const void*>(0x7f0000001040), 0x123, 0x401000, true);
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_EQ(text.str(), "7f0000001000 40 guest_kernel_ffffffff81000010\n7f0000001040 123 guest_user_401000\n");
  struct stat about;
  ASSERT_EQ(lstat(path.c_str(), &about), 0);
  EXPECT_TRUE(S_ISREG(about.st_mode));
  EXPECT_EQ(about.st_mode & 077, 0u);
  EXPECT_NE(access(trap.c_str(), F_OK), 0);
  unlink(path.c_str());
}
