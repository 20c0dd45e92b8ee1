// SPDX-License-Identifier: Apache-2.0
#include "storage/file/fault_file.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "storage/file/memory_file.h"

namespace vireo::storage {
namespace {

// What lies below is looked at through the pointer, as a process that comes after a kill would see it.
struct Pair {
  explicit Pair(unsigned early) {
    auto file = std::make_unique<MemoryFile>();
    below = file.get();
    std::vector<std::byte> old(1 << 16, std::byte{1});
    EXPECT_TRUE(file->write(0, old));
    top = std::make_unique<FaultFile>(std::move(file), 7, early);
  }
  size_t sectors_of(std::byte value) {
    size_t n = 0;
    for (size_t at = 0; at < below->bytes().size(); at += 512)
      n += std::all_of(below->bytes().begin() + static_cast<ptrdiff_t>(at), below->bytes().begin() + static_cast<ptrdiff_t>(at) + 512, [&](std::byte b) { return b == value; });
    return n;
  }
  MemoryFile* below;
  std::unique_ptr<FaultFile> top;
};

TEST(FaultFile, NothingIsInTheFileBeforeAFlush) {
  Pair p(0);
  std::vector<std::byte> data(1 << 15, std::byte{2}), back(data.size());
  ASSERT_TRUE(p.top->write(512, data));
  EXPECT_EQ(p.sectors_of(std::byte{2}), 0u);
  ASSERT_TRUE(p.top->read(512, back));
  EXPECT_EQ(back, data);
  ASSERT_TRUE(p.top->flush());
  EXPECT_EQ(p.sectors_of(std::byte{2}), 64u);
}

TEST(FaultFile, SomeIsEarlyInWholeBlocksWhereTheyAreWrittenWhole) {
  Pair p(50);
  std::vector<std::byte> data(1 << 16, std::byte{2}), back(data.size());
  ASSERT_TRUE(p.top->write(0, data));
  size_t early = p.sectors_of(std::byte{2});
  EXPECT_GT(early, 30u);
  EXPECT_LT(early, 100u);
  EXPECT_EQ(early % 8, 0u);
  EXPECT_EQ(early + p.sectors_of(std::byte{1}), 128u);
  ASSERT_TRUE(p.top->read(0, back));
  EXPECT_EQ(back, data);
  // Less than a block: torn between its sectors.
  bool torn = false;
  for (int i = 0; i < 20; ++i) {
    std::vector<std::byte> sectors(7 * 512, std::byte(10 + i));
    ASSERT_TRUE(p.top->write(512, sectors));
    size_t n = p.sectors_of(std::byte(10 + i));
    torn = torn || (n > 0 && n < 7);
  }
  EXPECT_TRUE(torn);
}

TEST(FaultFile, PartsOfSectorsKeepWhatIsAround) {
  Pair p(0);
  std::vector<std::byte> data(700, std::byte{3}), back(2048);
  ASSERT_TRUE(p.top->write(300, data));
  ASSERT_TRUE(p.top->read(0, back));
  for (size_t i = 0; i < back.size(); ++i) ASSERT_EQ(back[i], i >= 300 && i < 1000 ? std::byte{3} : std::byte{1}) << i;
  ASSERT_TRUE(p.top->write(1 << 16, std::span<const std::byte>(data).first(100)));
  EXPECT_EQ(p.top->size(), (1u << 16) + 100);
  ASSERT_TRUE(p.top->flush());
  EXPECT_EQ(p.below->size(), (1u << 16) + 100);
}

}  // namespace
}  // namespace vireo::storage
