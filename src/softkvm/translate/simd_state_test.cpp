// SPDX-License-Identifier: Apache-2.0
// What the pieces load and save is what XRSTOR and XSAVE do: the CPU itself is the judge.
#include "softkvm/translate/simd_state.h"

#include <cpuid.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "softkvm/vm.h"

namespace vireo::softkvm {
namespace {

struct Area {
  alignas(64) uint8_t bytes[4096] = {};
  uint64_t& header() { return *reinterpret_cast<uint64_t*>(bytes + 512); }
  uint64_t header() const { return *reinterpret_cast<const uint64_t*>(bytes + 512); }
  uint32_t& mxcsr() { return *reinterpret_cast<uint32_t*>(bytes + 24); }
  uint32_t mxcsr() const { return *reinterpret_cast<const uint32_t*>(bytes + 24); }
};

struct Part {
  unsigned component, at, size;
};
std::vector<Part> parts(uint32_t mask) {
  std::vector<Part> out{{1, 160, 256}};
  for (unsigned i = 2; i < 8; i++) {
    unsigned size, at, c, d;
    __cpuid_count(0xd, i, size, at, c, d);
    if (mask >> i & 1) out.push_back({i, at, size});
  }
  return out;
}

uint32_t mask() { return static_cast<uint32_t>(Vcpu::supported_xcr0()); }

// A random state in which the components of `present` are.
Area random_state(std::mt19937_64& random, uint32_t present) {
  Area a;
  for (size_t i = 0; i < sizeof a.bytes; i++) a.bytes[i] = static_cast<uint8_t>(random());
  memset(a.bytes, 0, 160);
  memset(a.bytes + 512, 0, 64);
  a.header() = present;
  a.mxcsr() = 0x1f80 | (random() & 3) << 13 | (random() & 0x3f);
  const uint16_t control = 0x37f ^ static_cast<uint16_t>((random() & 3) << 10);
  memcpy(a.bytes, &control, 2);
  a.bytes[4] = static_cast<uint8_t>(random());  // which registers are not empty
  for (unsigned r = 0; r < 8; r++)
    for (unsigned i = 0; i < 10; i++) a.bytes[32 + 16 * r + i] = static_cast<uint8_t>(random());
  return a;
}

// One state for all that says the same: components in their initial configuration as zeroes.
Area plain(Area a) {
  for (const Part& part : parts(mask()))
    if (!(a.header() >> part.component & 1)) memset(a.bytes + part.at, 0, part.size);
  if (!(a.header() & 1)) {
    memset(a.bytes, 0, 24);
    memset(a.bytes + 32, 0, 128);
    const uint16_t control = 0x37f;
    memcpy(a.bytes, &control, 2);
  }
  a.header() = 0;
  memset(a.bytes + 28, 0, 4);   // MXCSR_MASK: XRSTOR does not take it
  memset(a.bytes + 416, 0, 96);
  return a;
}
// The last instruction's places are not what this is about, and AMD's CPUs keep them only beside an exception.
void forget_pointers(Area& a) { memset(a.bytes + 6, 0, 18); }

void expect_same(Area got, Area wanted, uint32_t present, const char* what) {
  forget_pointers(got), forget_pointers(wanted);
  got = plain(got), wanted = plain(wanted);
  EXPECT_EQ(memcmp(got.bytes, wanted.bytes, 416), 0) << what << ", components " << std::hex << present;
  for (const Part& part : parts(mask()))
    EXPECT_EQ(memcmp(got.bytes + part.at, wanted.bytes + part.at, part.size), 0) << what << ", component " << part.component << " of " << std::hex << present;
}

// Nothing between the two touches the registers.
[[gnu::noinline]] void through(const Area& in, Area& out, bool load_whole, bool save_whole, uint32_t mask) {
  (load_whole ? load_simd_whole : load_simd)(in.bytes, mask);
  (save_whole ? save_simd_whole : save_simd)(out.bytes, mask);
}

class SimdState : public testing::TestWithParam<uint64_t> {};

TEST_P(SimdState, IsLoadedAndSavedAsByXsave) {
  std::mt19937_64 random(GetParam());
  for (unsigned round = 0; round < 400; round++) {
    const uint32_t present = static_cast<uint32_t>(random()) & mask(), before = static_cast<uint32_t>(random()) & mask();
    const Area state = random_state(random, present), other = random_state(random, before);
    Area out = random_state(random, mask()), by_load, by_save, wanted;
    memset(by_save.bytes, 0xee, sizeof by_save.bytes);
    memset(by_save.bytes + 512, 0, 64);
    // Another state was in the registers before.
    through(other, out, true, false, mask());
    expect_same(out, other, before, "save");
    through(state, by_load, false, true, mask());
    expect_same(by_load, state, present, "load");
    through(other, out, true, true, mask());
    through(state, by_save, false, false, mask());
    expect_same(by_save, state, present, "both");
    through(state, wanted, true, true, mask());
    expect_same(by_load, wanted, present, "as XRSTOR and XSAVE");
    EXPECT_EQ(by_load.mxcsr(), state.mxcsr());
  }
}
INSTANTIATE_TEST_SUITE_P(Seeds, SimdState, testing::Values(1, 2, 3));

TEST(SimdStateHost, WhatIsInItsInitialConfigurationStaysSo) {
  std::mt19937_64 random(5);
  const Area all = random_state(random, mask()), some = random_state(random, 2 | (mask() & 4));
  Area out, same = some;
  through(all, out, true, false, mask());  // C++ too leaves something in every register
  through(some, same, false, false, mask());
  EXPECT_EQ(same.header(), some.header());
}

TEST(SimdStateHost, IsLeftAsCppWantsIt) {
  std::mt19937_64 random(4);
  Area state = random_state(random, mask()), out;
  state.mxcsr() = 0x1f80 | 3 << 13 | 0x20;
  through(state, out, false, false, mask());
  uint32_t mxcsr;
  uint16_t control;
  asm volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(control));
  EXPECT_EQ(mxcsr, 0x1f80u);
  EXPECT_EQ(control, 0x37f);
  volatile long double one = 1, three = 3;
  EXPECT_EQ(static_cast<double>(one / three * three), 1.0);  // the x87 stack is empty
}

TEST(SimdStateHost, OtherBitsOfTheHeaderStay) {
  Area state, out;
  state.header() = 2;
  state.mxcsr() = 0x1f80;
  out.header() = 1u << 9;  // PKRU, which is not among the components
  through(state, out, false, false, mask());
  EXPECT_EQ(out.header() & ~uint64_t{mask()}, 1u << 9);
}

}  // namespace
}  // namespace vireo::softkvm
