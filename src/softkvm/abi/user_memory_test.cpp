// SPDX-License-Identifier: Apache-2.0
#include "softkvm/abi/user_memory.h"

#include "softkvm/abi/backend_test.h"

namespace vireo::softkvm::abi {
namespace {

struct TwoPages {
  TwoPages() {
    at = static_cast<uint8_t*>(::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::mprotect(at + 4096, 4096, PROT_NONE);
  }
  ~TwoPages() { ::munmap(at, 8192); }
  uint8_t* at;
};

TEST(UserMemory, CopiesWhatIsThere) {
  uint64_t from = 0x1122334455667788, to = 0;
  EXPECT_TRUE(copy_in(to, reinterpret_cast<uintptr_t>(&from)));
  EXPECT_EQ(to, from);
  EXPECT_TRUE(copy_out(reinterpret_cast<uintptr_t>(&to), uint64_t{5}));
  EXPECT_EQ(to, 5u);
}

TEST(UserMemory, RefusesWhatIsNot) {
  TwoPages pages;
  uint64_t value = 0;
  EXPECT_FALSE(copy_in(value, 0));
  EXPECT_FALSE(copy_in(value, ~uintptr_t{0}));
  EXPECT_FALSE(copy_in(value, 0xffff800000000000));
  EXPECT_FALSE(copy_in(value, reinterpret_cast<uintptr_t>(pages.at + 4092)));
  EXPECT_FALSE(copy_out(reinterpret_cast<uintptr_t>(pages.at + 4092), value));
  EXPECT_TRUE(copy_in(value, reinterpret_cast<uintptr_t>(pages.at + 4088)));
}

TEST(UserMemory, RefusesToWriteReadOnlyPages) {
  TwoPages pages;
  ::mprotect(pages.at, 4096, PROT_READ);
  EXPECT_FALSE(copy_out(reinterpret_cast<uintptr_t>(pages.at), uint64_t{1}));
}

TEST(UserMemory, NothingIsAlwaysThere) { EXPECT_TRUE(copy_in(nullptr, 0, 0)); }

}  // namespace
}  // namespace vireo::softkvm::abi
