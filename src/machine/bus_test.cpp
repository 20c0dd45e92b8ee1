// SPDX-License-Identifier: Apache-2.0
#include "machine/bus.h"

#include <gtest/gtest.h>

namespace vireo {
namespace {

struct Probe final : Device {
  void read(Access access, std::span<std::byte> data) override { data[0] = std::byte{static_cast<uint8_t>(access.offset)}; }
  void write(Access access, std::span<const std::byte>) override { last = access.offset; }
  void reset(ResetKind) override {}
  void fields(Archive&) override {}
  uint64_t last = ~0ull;
};

uint8_t read(Bus& bus, uint64_t address) {
  std::byte b{};
  bus.read(address, {&b, 1});
  return std::to_integer<uint8_t>(b);
}

TEST(Bus, DevicesSeeOffsets) {
  Bus bus;
  Probe a, b;
  ASSERT_TRUE(bus.add(0x1000, 0x10, a));
  ASSERT_TRUE(bus.add(0x1010, 0x10, b, 0x40));
  EXPECT_EQ(read(bus, 0x100f), 0x0f);
  EXPECT_EQ(read(bus, 0x1010), 0x40);
}

TEST(Bus, UndecodedAddressesReadAllOnes) {
  Bus bus;
  Probe a;
  ASSERT_TRUE(bus.add(0x1000, 0x10, a));
  EXPECT_EQ(read(bus, 0xfff), 0xff);
  EXPECT_EQ(read(bus, 0x1010), 0xff);
  std::byte wide[4]{};
  bus.read(0x100e, wide);
  EXPECT_EQ(wide[0], std::byte{0xff});
  bus.write(0x100e, wide);
  EXPECT_EQ(a.last, ~0ull);
}

TEST(Bus, OverlapsAreRefused) {
  Bus bus;
  Probe a, b;
  ASSERT_TRUE(bus.add(0x1000, 0x10, a));
  EXPECT_FALSE(bus.add(0x100f, 0x10, b));
  EXPECT_FALSE(bus.add(0xff1, 0x10, b));
  EXPECT_FALSE(bus.add(0xf00, 0x1000, b));
  EXPECT_TRUE(bus.add(0xff0, 0x10, b));
  bus.remove(0x1000);
  EXPECT_TRUE(bus.add(0x1008, 0x10, b));
}

TEST(Bus, TheTopOfTheAddressSpaceIsReachable) {
  Bus bus;
  Probe a;
  ASSERT_TRUE(bus.add(~0ull - 0xf, 0x10, a));
  EXPECT_EQ(read(bus, ~0ull), 0x0f);
}

}  // namespace
}  // namespace vireo
