// SPDX-License-Identifier: Apache-2.0
// Which spaces run natively, by times that are made up: ticks of the host's TSC are read, so each is ended by hand.
#include "softkvm/native/user_profile.h"

#include <gtest/gtest.h>

namespace vireo::softkvm {
namespace {

constexpr uint64_t kCr3 = 0x1000, kTicks = 1;  // a tick a microsecond: the constants are ticks then

// A stretch of so many ticks (and the few that this takes), of which a stub ran for `ran`.
void stretch(UserProfile& profile, uint64_t ticks, uint64_t ran) {
  profile.enter(kCr3);
  profile.since = __builtin_ia32_rdtsc() - ticks;
  profile.ran(ran, false);
  profile.leave();
}

TEST(UserProfile, ASpaceThatComputesStaysInItsStub) {
  UserProfile profile;
  profile.ticks_per_microsecond = kTicks, profile.switch_ticks = 1000;
  profile.enter(kCr3);
  profile.current->native = true;
  for (int i = 0; i < 10; i++) stretch(profile, 1'000'000'000, 900'000'000);
  EXPECT_TRUE(profile.current->native);
}

TEST(UserProfile, ASpaceWhoseTimeGoesToTrapsComesBack) {
  UserProfile profile;
  profile.ticks_per_microsecond = kTicks, profile.switch_ticks = 1'000'000;
  profile.enter(kCr3);
  profile.current->native = true;
  stretch(profile, 1'000'000'000, 51'000'000);  // a twentieth of it was the program's
  EXPECT_FALSE(profile.current->native);
  EXPECT_GT(profile.current->pause, 0u);
}

TEST(UserProfile, MappingIsNotComputing) {
  for (const bool mapped : {false, true}) {
    UserProfile profile;
    profile.ticks_per_microsecond = kTicks, profile.switch_ticks = 1'000'000;
    profile.enter(kCr3);
    profile.current->native = true;
    profile.enter(kCr3);
    profile.since = __builtin_ia32_rdtsc() - 2'500'000;
    profile.ran(2'000'000, mapped);
    profile.leave();
    EXPECT_EQ(profile.current->native, !mapped);
  }
}

TEST(UserProfile, MakingAStubIsNoOverhead) {
  for (const bool told : {false, true}) {
    UserProfile profile;
    profile.ticks_per_microsecond = kTicks, profile.switch_ticks = 1'000'000;
    profile.enter(kCr3);
    profile.current->native = true;
    profile.since = __builtin_ia32_rdtsc() - 1'000'000'000;
    if (told) profile.made(1'000'000'000);  // and a tick came then
    profile.leave();
    EXPECT_EQ(profile.current->native, told);
  }
}

// What did not pay while it was trapping pays now; what could not run there waits.
TEST(UserProfile, LongStretchesEndAPauseUnlessItCouldNotRun) {
  for (const bool unfit : {false, true}) {
    UserProfile profile;
    profile.ticks_per_microsecond = 1'000'000, profile.switch_ticks = 1'000'000;
    for (int i = 0; i < 6; i++) {
      profile.enter(kCr3);
      profile.current->native = true;
      if (unfit) profile.give_up();
      else stretch(profile, 2'000'000'000, 1'000'000);
      ASSERT_FALSE(profile.current->native);
    }
    ASSERT_GT(profile.current->pause, 8u);
    stretch(profile, 900'000'000, 0);
    EXPECT_EQ(profile.current->native, !unfit);
  }
}

TEST(UserProfile, WhereSwitchesAreDearStretchesHaveToBeLongerToGoThere) {
  for (const bool dear : {false, true}) {
    UserProfile profile;
    // Stretches of 100 million ticks: kEnterMicroseconds are 15 million, kLongMicroseconds 800 million.
    profile.ticks_per_microsecond = 1'000'000, profile.switch_ticks = dear ? 100'000'000 : 1'000'000;
    bool went = false;
    for (int i = 0; i < 200 && !went; i++) {
      stretch(profile, 100'000'000, 0);
      went = profile.current->native;
    }
    EXPECT_EQ(went, !dear);
  }
}

// A program that makes short calls all the time computes no more in a stub than elsewhere, and its kernel is slower. Others run between two stretches
// now and then: that is not the kernel's time for this one.
TEST(UserProfile, ASpaceThatIsMostlyInItsKernelComesBack) {
  for (const uint64_t kernel : {10'000'000ull, 60'000'000ull, 900'000'000ull}) {
    UserProfile profile;
    profile.ticks_per_microsecond = 1'000'000, profile.switch_ticks = 1'000'000;
    profile.enter(kCr3);
    profile.current->native = true;
    for (int i = 0; i < 200 && profile.current->native; i++) {
      profile.left_at = __builtin_ia32_rdtsc() - kernel;
      stretch(profile, 20'000'000, 15'000'000);
    }
    EXPECT_EQ(profile.current->native, kernel != 60'000'000) << kernel;
    profile.left_at = __builtin_ia32_rdtsc() - 60'000'000;
    profile.enter(kCr3 + 0x1000);
    EXPECT_EQ(profile.current->kernel, 0u);
  }
}

}  // namespace
}  // namespace vireo::softkvm
