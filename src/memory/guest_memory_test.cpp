// SPDX-License-Identifier: Apache-2.0
#include "memory/guest_memory.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace vireo {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

std::unique_ptr<GuestMemory> make(MemoryConfig config, uint64_t low_limit = 3 * kGiB) {
  auto memory = GuestMemory::create(config, low_limit);
  EXPECT_TRUE(memory) << memory.error().message;
  return memory ? std::move(*memory) : nullptr;
}

TEST(GuestMemory, SmallRamIsOneRegionFromZero) {
  auto memory = make({.size = 16 * kMiB});
  ASSERT_EQ(memory->regions().size(), 1u);
  EXPECT_EQ(raw(memory->regions()[0].start), 0u);
  EXPECT_EQ(memory->regions()[0].size, 16 * kMiB);
}

TEST(GuestMemory, RamAboveTheHoleStartsAt4GiB) {
  auto memory = make({.size = 48 * kMiB}, 32 * kMiB);
  ASSERT_EQ(memory->regions().size(), 2u);
  EXPECT_EQ(memory->regions()[0].size, 32 * kMiB);
  EXPECT_EQ(raw(memory->regions()[1].start), 4 * kGiB);
  EXPECT_EQ(memory->regions()[1].size, 16 * kMiB);
  EXPECT_TRUE(memory->range(GuestAddress{32 * kMiB - 1}, 2).empty());
  EXPECT_TRUE(memory->range(GuestAddress{4 * kGiB - 1}, 2).empty());
}

TEST(GuestMemory, RangesThatWrapAroundAreNotRam) {
  auto memory = make({.size = kMiB});
  EXPECT_TRUE(memory->range(GuestAddress{~0ull}, 2).empty());
  EXPECT_TRUE(memory->range(GuestAddress{8}, ~0ull).empty());
  EXPECT_FALSE(memory->range(GuestAddress{kMiB - 8}, 8).empty());
  EXPECT_TRUE(memory->range(GuestAddress{kMiB - 8}, 9).empty());
}

TEST(GuestMemory, WhatIsHiddenIsNoRamUntilItIsShownAgain) {
  auto memory = GuestMemory::create({.size = 8 << 20}, 4 << 20);
  ASSERT_TRUE(memory);
  GuestMemory& m = **memory;
  m.hide(0, GuestAddress{3 << 20}, 1 << 20);
  m.hide(1, GuestAddress{0xa0000}, 0x20000);
  EXPECT_TRUE(m.range(GuestAddress{3 << 20}, 1).empty());
  EXPECT_TRUE(m.range(GuestAddress{(3 << 20) - 1}, 2).empty());
  EXPECT_EQ(m.range(GuestAddress{1 << 20}, 2 << 20).size(), 2u << 20);
  EXPECT_TRUE(m.range(GuestAddress{0x9ffff}, 2).empty());
  EXPECT_TRUE(m.range(GuestAddress{0xbffff}, 1).empty());
  EXPECT_TRUE(m.range(GuestAddress{0x90000}, 0x40000).empty());
  EXPECT_EQ(m.range(GuestAddress{0xc0000}, 16).size(), 16u);
  EXPECT_FALSE(m.range(GuestAddress{1ull << 32}, 4 << 20).empty());  // of the first region alone
  m.hide(0, GuestAddress{3 << 20}, 0);
  m.hide(1, GuestAddress{0xa0000}, 0);
  EXPECT_EQ(m.range(GuestAddress{0}, 4 << 20).size(), 4u << 20);
}

TEST(GuestMemory, WritesAreReadBackAndNoticed) {
  for (auto backing : {MemoryConfig::Backing::kAnonymous, MemoryConfig::Backing::kMemfd}) {
    auto memory = make({.size = kMiB, .backing = backing, .prealloc = true});
    uint64_t noticed = 0;
    memory->set_write_notice([&](GuestAddress start, uint64_t size) { noticed = raw(start) + size; });
    uint32_t value = 0x12345678, back = 0;
    EXPECT_TRUE(memory->write(GuestAddress{0x1000}, std::as_bytes(std::span(&value, 1))));
    EXPECT_EQ(noticed, 0x1004u);
    EXPECT_TRUE(memory->read(GuestAddress{0x1000}, std::as_writable_bytes(std::span(&back, 1))));
    EXPECT_EQ(back, value);
    EXPECT_FALSE(memory->write(GuestAddress{kMiB - 2}, std::as_bytes(std::span(&value, 1))));
  }
}

TEST(GuestMemory, FileBackingKeepsItsBytes) {
  char path[] = "/tmp/vireo-ram-XXXXXX";
  int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  close(fd);
  MemoryConfig config{.size = kMiB, .backing = MemoryConfig::Backing::kFile, .path = path};
  std::byte mark{0x5a}, back{};
  make(config)->write(GuestAddress{77}, std::span(&mark, 1));
  make(config)->read(GuestAddress{77}, std::span(&back, 1));
  EXPECT_EQ(back, mark);
  unlink(path);
}

// Spec: proc(5), /proc/PID/smaps: the flags of the mapping that an address lies in.
std::string mapping_flags(const std::byte* address) {
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool ours = false;
  while (std::getline(smaps, line)) {
    uintptr_t low, high;
    if (sscanf(line.c_str(), "%lx-%lx ", &low, &high) == 2)
      ours = low <= reinterpret_cast<uintptr_t>(address) && reinterpret_cast<uintptr_t>(address) < high;
    else if (ours && line.starts_with("VmFlags:"))
      return line.substr(8) + " ";
  }
  return "";
}

TEST(GuestMemory, MergeableRamIsOfSmallPages) {
  auto memory = GuestMemory::create({.size = 64 * kMiB, .mergeable = true}, 32 * kMiB);
  if (!memory && memory.error().code == EINVAL) GTEST_SKIP() << "the host kernel has no KSM";
  ASSERT_TRUE(memory) << memory.error().message;
  for (const MemoryRegion& region : (*memory)->regions()) {
    for (uint64_t offset : {uint64_t{0}, region.size - 1}) {
      std::string flags = mapping_flags(region.host + offset);
      EXPECT_NE(flags.find(" mg "), std::string::npos) << flags;
      EXPECT_EQ(flags.find(" hg "), std::string::npos) << flags;
    }
  }
}

TEST(GuestMemory, SharedMemoryCannotBeMergeable) {
  for (auto backing : {MemoryConfig::Backing::kMemfd, MemoryConfig::Backing::kHugetlb}) {
    auto memory = GuestMemory::create({.size = 2 * kMiB, .backing = backing, .mergeable = true}, kGiB);
    ASSERT_FALSE(memory);
    EXPECT_NE(memory.error().message.find("mergeable"), std::string::npos);
  }
}

TEST(GuestMemory, ImpossibleSizesAreRefusedWithTheValue) {
  auto none = GuestMemory::create({.size = 0}, kGiB);
  ASSERT_FALSE(none);
  auto odd = GuestMemory::create({.size = 4097}, kGiB);
  ASSERT_FALSE(odd);
  EXPECT_NE(odd.error().message.find("4097"), std::string::npos);
  auto node = GuestMemory::create({.size = kMiB, .numa_node = 5000}, kGiB);
  ASSERT_FALSE(node);
}

}  // namespace
}  // namespace vireo
