// SPDX-License-Identifier: Apache-2.0
// Expected values: Intel 3 Series Express Chipset Family data sheet, SMRAM and ESMRAMC.
#include "machine/host_bridge.h"

#include <gtest/gtest.h>

namespace vireo {
namespace {

class SmramTest : public testing::Test {
 protected:
  HostBridge::Smram told;
  HostBridge bridge{std::nullopt, {.ecam = [](std::optional<HostBridge::Ecam>) {}, .smram = [this](const HostBridge::Smram& smram) { told = smram; }}};

  template <class T>
  void out(uint16_t offset, T value) {
    bridge.write_config(offset, std::as_bytes(std::span(&value, 1)));
  }
  template <class T>
  T in(uint16_t offset) {
    T value{};
    bridge.read_config(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void SetUp() override { bridge.reset(ResetKind::kCold); }
};

TEST_F(SmramTest, IsClosedAndNotLockedAfterReset) {
  EXPECT_EQ(in<uint8_t>(0x9d), 0x02);
  EXPECT_EQ(in<uint8_t>(0x9e), 0x38);
  EXPECT_EQ(told, HostBridge::Smram{});
}

TEST_F(SmramTest, OpenIsForEverybodyAndNeedsTheEnable) {
  out<uint8_t>(0x9d, 0x42);
  EXPECT_EQ(told, HostBridge::Smram{});
  out<uint8_t>(0x9d, 0x4a);
  EXPECT_EQ(told, (HostBridge::Smram{.compatible = true, .open = true}));
  out<uint8_t>(0x9d, 0x6a);  // D_CLS
  EXPECT_EQ(told, (HostBridge::Smram{.compatible = true}));
  out<uint8_t>(0x9d, 0x0d);
  EXPECT_EQ(in<uint8_t>(0x9d), 0x0a) << "where it is cannot be changed";
}

TEST_F(SmramTest, TsegHasFourSizes) {
  out<uint8_t>(0x9d, 0x0a);
  const uint64_t sizes[] = {1 << 20, 2 << 20, 8 << 20, 16 << 20};
  for (uint8_t i = 0; i < 4; i++) {
    out<uint8_t>(0x9e, static_cast<uint8_t>(i << 1 | 1));
    EXPECT_EQ(told.tseg, sizes[i]);
    EXPECT_EQ(in<uint8_t>(0x9e), 0x38 | i << 1 | 1);
  }
  out<uint8_t>(0x9d, 0x02);
  EXPECT_EQ(told.tseg, 0u);
}

TEST_F(SmramTest, TheLargestIsToldToWhoAsks) {
  EXPECT_EQ(in<uint16_t>(0x50), 0u);
  out<uint16_t>(0x50, 0xffff);
  EXPECT_EQ(in<uint16_t>(0x50), 16);
}

TEST_F(SmramTest, TheLockClosesAndHoldsUntilReset) {
  out<uint8_t>(0x9d, 0x4a);
  out<uint8_t>(0x9e, 0x01);
  out<uint8_t>(0x9d, 0x5a);
  const HostBridge::Smram locked{.compatible = true, .open = false, .tseg = 1 << 20};
  EXPECT_EQ(told, locked);
  EXPECT_EQ(in<uint8_t>(0x9d), 0x1a);
  out<uint16_t>(0x9d, 0x0042);
  out<uint8_t>(0x9e, 0x07);
  EXPECT_EQ(told, locked);
  EXPECT_EQ(in<uint16_t>(0x9d), 0x391a);
  bridge.reset(ResetKind::kCold);
  EXPECT_EQ(told, HostBridge::Smram{});
  out<uint8_t>(0x9d, 0x4a);
  EXPECT_TRUE(told.open);
}

TEST_F(SmramTest, BothRegistersInOneWriteWithTheLock) {
  out<uint16_t>(0x9d, 0x0359);
  EXPECT_EQ(told, (HostBridge::Smram{.compatible = true, .open = false, .tseg = 2 << 20}));
  EXPECT_EQ(in<uint16_t>(0x9d), 0x3b1a);
}

TEST(HostBridgeWithoutSmm, SmramIsLocked) {
  HostBridge bridge{std::nullopt, {.ecam = [](std::optional<HostBridge::Ecam>) {}}};
  uint8_t value = 0x4a;
  bridge.write_config(0x9d, std::as_bytes(std::span(&value, 1)));
  bridge.read_config(0x9d, std::as_writable_bytes(std::span(&value, 1)));
  EXPECT_EQ(value, 0x12);
}

}  // namespace
}  // namespace vireo
