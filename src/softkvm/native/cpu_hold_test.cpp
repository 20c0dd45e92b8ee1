// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/cpu_hold.h"

#include <gtest/gtest.h>

namespace vireo::softkvm {
namespace {

constexpr uint64_t kTicks = 10, kHold = CpuHold::kHoldUs * kTicks, kFree = CpuHold::kFreeUs * kTicks;

cpu_set_t affinity() {
  cpu_set_t set;
  EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  return set;
}
bool on_one_cpu() {
  const cpu_set_t set = affinity();
  return CPU_COUNT(&set) == 1;
}

class CpuHoldTest : public testing::Test {
 protected:
  void SetUp() override {
    before_ = affinity();
    if (CPU_COUNT(&before_) < 2) GTEST_SKIP() << "one CPU only";
  }
  void TearDown() override { sched_setaffinity(0, sizeof before_, &before_); }
  bool as_before() const {
    const cpu_set_t now = affinity();
    return CPU_EQUAL(&now, &before_);
  }
  cpu_set_t before_;
};

TEST_F(CpuHoldTest, HoldsAWhileAndLetsGoAWhile) {
  CpuHold hold;
  hold.take(1000, kTicks);
  EXPECT_TRUE(hold.held());
  EXPECT_TRUE(on_one_cpu());
  const int cpu = sched_getcpu();
  hold.take(1000 + kHold - 1, kTicks);
  EXPECT_TRUE(on_one_cpu());
  EXPECT_EQ(sched_getcpu(), cpu);
  hold.take(1000 + kHold, kTicks);
  EXPECT_TRUE(as_before());
  hold.take(1000 + kHold + kFree - 1, kTicks);
  EXPECT_TRUE(as_before());
  hold.take(1000 + kHold + kFree, kTicks);
  EXPECT_TRUE(on_one_cpu());
  hold.release();
  EXPECT_TRUE(as_before());
  hold.take(1000 + kHold + kFree + 1, kTicks);  // at once: it slept meanwhile
  EXPECT_TRUE(on_one_cpu());
  hold.release();
}

TEST_F(CpuHoldTest, AnAffinityThatIsSetMeanwhileStays) {
  CpuHold hold;
  hold.take(1, kTicks);
  ASSERT_TRUE(hold.held());
  const int held = sched_getcpu();
  cpu_set_t other;
  CPU_ZERO(&other);
  for (unsigned i = 0; i < CPU_SETSIZE; i++)
    if (CPU_ISSET(i, &before_) && static_cast<int>(i) != held) {
      CPU_SET(i, &other);
      break;
    }
  ASSERT_EQ(sched_setaffinity(0, sizeof other, &other), 0);
  hold.release();
  const cpu_set_t now = affinity();
  EXPECT_TRUE(CPU_EQUAL(&now, &other));
}

TEST_F(CpuHoldTest, OneCpuOfTheUsersIsLeftAlone) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<unsigned>(sched_getcpu()), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  CpuHold hold;
  hold.take(1, kTicks);
  EXPECT_FALSE(hold.held());
}

}  // namespace
}  // namespace vireo::softkvm
