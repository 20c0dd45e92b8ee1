// SPDX-License-Identifier: Apache-2.0
// Areas that are used become large pages of the host's, and keep what is in them. Spec: madvise(2), MADV_COLLAPSE; proc(5), smaps.
#include "softkvm/mmu/large_pages.h"
#include "softkvm/mmu/large_page_wishes.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace vireo::softkvm {
namespace {

constexpr uint64_t kSize = 4 * kLargePage;

class LargePagesTest : public testing::Test {
 protected:
  void SetUp() override {
    fd_ = memfd_create("test", MFD_CLOEXEC);
    ASSERT_EQ(ftruncate(fd_, kSize), 0);
    auto* reserved = static_cast<uint8_t*>(mmap(nullptr, kSize + kLargePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(reserved, MAP_FAILED);
    memory_ = reinterpret_cast<uint8_t*>((reinterpret_cast<uint64_t>(reserved) + kLargePage - 1) & ~(kLargePage - 1));
    ASSERT_NE(mmap(memory_, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd_, 0), MAP_FAILED);
  }
  void TearDown() override {
    munmap(memory_, kSize);
    close(fd_);
  }

  // Bytes of the mapping that large pages map.
  uint64_t large() const {
    std::ifstream maps("/proc/self/smaps");
    char start[32];
    snprintf(start, sizeof start, "%lx-", reinterpret_cast<unsigned long>(memory_));
    bool here = false;
    for (std::string line; std::getline(maps, line);) {
      if (line.find("memfd:") != line.npos) here = line.starts_with(start);
      if (here && line.starts_with("ShmemPmdMapped:")) return std::stoull(line.substr(15)) << 10;
    }
    return 0;
  }
  // Pages of an area that are there.
  uint64_t resident(unsigned area) const {
    std::vector<unsigned char> pages(kLargePage / 4096);
    EXPECT_EQ(mincore(memory_ + area * kLargePage, kLargePage, pages.data()), 0);
    return static_cast<uint64_t>(std::ranges::count_if(pages, [](unsigned char page) { return page & 1; }));
  }
  bool host_can() {
    memory_[3 * kLargePage] = 1;
    const bool can = madvise(memory_ + 3 * kLargePage, kLargePage, 25 /* MADV_COLLAPSE */) == 0;
    at_first_ = large();
    ask_host_again();
    return can;
  }

  int fd_ = -1;
  uint8_t* memory_ = nullptr;
  uint64_t at_first_ = 0;
};

TEST_F(LargePagesTest, AnAreaThatIsUsedBecomesLarge) {
  if (!host_can()) GTEST_SKIP() << "the host collapses no shared memory into large pages";
  PageWorker worker;
  LargePages pages(worker);
  ASSERT_EQ(pages.add(memory_, kSize), 0);
  for (unsigned i = 0; i < LargePages::kEnough; i++) {
    uint8_t* page = memory_ + kLargePage + i * 4096;
    memset(page, static_cast<int>(i + 1), 4096);
    EXPECT_EQ(large(), at_first_) << i;
    pages.used(page);
  }
  EXPECT_EQ(large(), at_first_ + kLargePage);
  for (unsigned i = 0; i < LargePages::kEnough; i++) {
    EXPECT_EQ(memory_[kLargePage + i * 4096], i + 1);
    EXPECT_EQ(memory_[kLargePage + i * 4096 + 4095], i + 1);
  }
  EXPECT_EQ(memory_[kLargePage + LargePages::kEnough * 4096], 0);
}

TEST_F(LargePagesTest, OnlyWholeLargePagesInsideOfTheRange) {
  if (!host_can()) GTEST_SKIP() << "the host collapses no shared memory into large pages";
  PageWorker worker;
  LargePages pages(worker);
  ASSERT_EQ(pages.add(memory_ + 4096, 2 * kLargePage - 4096), 0);
  memory_[4096] = memory_[2 * kLargePage] = 1;
  for (unsigned i = 0; i < 2 * LargePages::kEnough; i++) {
    pages.used(memory_ + 4096);
    pages.used(memory_ + 2 * kLargePage);
  }
  EXPECT_EQ(large(), at_first_);
  memory_[kLargePage] = 1;
  for (unsigned i = 0; i < LargePages::kEnough; i++) pages.used(memory_ + kLargePage);
  EXPECT_EQ(large(), at_first_ + kLargePage);
}

TEST_F(LargePagesTest, AWorkerGoesAhead) {
  if (!host_can()) GTEST_SKIP() << "the host collapses no shared memory into large pages";
  PageWorker worker;
  LargePages pages(worker);
  ASSERT_TRUE(worker.start());
  ASSERT_EQ(pages.add(memory_, kSize), 0);
  memory_[0] = 1;
  for (unsigned area = 0; area < 2; area++)
    for (unsigned i = 0; i < LargePages::kEnough; i++) pages.used(memory_ + area * kLargePage);
  // Area 2 was not used. A host that was slow with the first two gives small pages for it.
  for (unsigned wait = 0; wait < 1000 && resident(2) != kLargePage / 4096; wait++) usleep(10000);
  EXPECT_EQ(resident(2), kLargePage / 4096);
  EXPECT_EQ(memory_[0], 1);
  worker.stop();
  EXPECT_FALSE(worker.running());
}

TEST_F(LargePagesTest, AWorkerTakesSoMuchAndNoMore) {
  PageWorker worker;  // that does nothing yet
  unsigned taken = 0;
  while (taken < 1000 && worker.ask(memory_, PageWorker::Work::kRead)) taken++;
  EXPECT_EQ(taken, 64u);
  ASSERT_TRUE(worker.start());
  // It makes room, again and again.
  for (unsigned more = 0, wait = 0; more < 3; wait++) {
    ASSERT_LT(wait, 1000u);
    if (worker.ask(memory_, PageWorker::Work::kRead)) more++;
    else usleep(10000);
  }
}

TEST_F(LargePagesTest, RangesAreBounded) {
  PageWorker worker;
  LargePages pages(worker);
  for (unsigned i = 0; i < LargePages::kMost; i++) ASSERT_EQ(pages.add(memory_, kLargePage), 0);
  EXPECT_EQ(pages.add(memory_, kLargePage), -ENOSPC);
  EXPECT_EQ(pages.add(memory_ + 1, ~0ull), -EINVAL);
  EXPECT_EQ(pages.add(memory_ + 4096, kLargePage), 0);  // has none
}

// What the kernel has of a mapping: two letters a flag (proc(5), smaps, VmFlags).
std::string flags_of(const void* host) {
  std::ifstream maps("/proc/self/smaps");
  char start[32];
  snprintf(start, sizeof start, "%lx-", reinterpret_cast<unsigned long>(host));
  bool here = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find(':') > 20 && line.find('-') < 20) here = line.starts_with(start);
    if (here && line.starts_with("VmFlags:")) return line + " ";
  }
  return {};
}

TEST(LargePageWishes, AreTakenBackWhereTheyBecameAGuests) {
  auto* place = static_cast<uint8_t*>(mmap(nullptr, 6 * kLargePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  uint8_t *guests = place + kLargePage, *others = place + 4 * kLargePage;
  LargePageWishes wishes;
  for (uint8_t* at : {guests, others}) {
    ASSERT_EQ(mprotect(at, kLargePage, PROT_READ | PROT_WRITE), 0);
    if (madvise(at, kLargePage, MADV_HUGEPAGE) != 0) GTEST_SKIP() << "the host has no large pages for who asks";
    wishes.note(at, kLargePage);
  }
  EXPECT_TRUE(wishes.grant(place, kLargePage).empty());
  const auto granted = wishes.grant(guests + 4096, 4096);
  ASSERT_EQ(granted.size(), 1u);
  EXPECT_EQ(granted[0].host, guests);
  EXPECT_TRUE(wishes.grant(guests, kLargePage).empty());
  EXPECT_NE(flags_of(guests).find(" hg "), std::string::npos) << flags_of(guests);
  wishes.take_back();
  EXPECT_NE(flags_of(guests).find(" nh "), std::string::npos) << flags_of(guests);
  EXPECT_NE(flags_of(others).find(" hg "), std::string::npos) << flags_of(others);
  munmap(place, 6 * kLargePage);
}

}  // namespace
}  // namespace vireo::softkvm
