// SPDX-License-Identifier: Apache-2.0
// Expected values: Intel StrataFlash data sheet (commands, status register), JEDEC JESD68.01 (query), and the sequences that edk2's
// QemuFlashFvbServicesRuntimeDxe uses to find and write such a chip.
#include "devices/pflash.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace vireo {
namespace {

class PflashTest : public testing::Test {
 protected:
  static constexpr uint64_t kSize = 4 * Pflash::kBlockSize;
  std::vector<std::byte> array = std::vector<std::byte>(kSize, std::byte{0xa5});
  std::vector<std::pair<uint64_t, uint64_t>> changes;
  bool shown = true;
  Pflash flash{array, {[this](bool array_shown) { shown = array_shown; }, [this](uint64_t at, uint64_t size) { changes.emplace_back(at, size); }}};

  void out(uint64_t offset, uint8_t value) { flash.write({offset}, std::as_bytes(std::span(&value, 1))); }
  uint8_t in(uint64_t offset) {
    uint8_t value = 0;
    flash.read({offset}, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
};

TEST_F(PflashTest, IsFoundAsFirmwareLooksForIt) {
  EXPECT_EQ(in(0), 0xa5);
  out(0, 0x50);
  EXPECT_EQ(in(0), 0xa5);  // no RAM
  out(0, 0x70);
  EXPECT_EQ(in(0), 0x00);  // no ROM: the cleared status
  EXPECT_FALSE(shown);
  out(0, 0xff);
  EXPECT_TRUE(shown);
  EXPECT_EQ(in(0), 0xa5);
}

TEST_F(PflashTest, WhoMayNotCommandItReadsTheArrayAndWritesNothing) {
  bool may = false;
  Pflash guarded{array, {.may_command = [&] { return may; }}};
  auto write = [&](uint64_t offset, uint8_t value) { guarded.write({offset}, std::as_bytes(std::span(&value, 1))); };
  auto read = [&] {
    uint8_t value = 0;
    guarded.read({0}, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  };
  write(0, 0x70);
  EXPECT_EQ(read(), 0xa5);
  may = true;
  EXPECT_EQ(read(), 0xa5);  // the command was not taken
  write(0, 0x70);
  EXPECT_NE(read(), 0xa5);
  may = false;
  EXPECT_EQ(read(), 0xa5);
}

TEST_F(PflashTest, ErasesWholeBlocksAndNeedsTheConfirmation) {
  out(0x1234, 0x20);
  out(0x1234, 0xd0);
  EXPECT_EQ(in(0), 0x80);  // ready
  out(0, 0xff);
  EXPECT_EQ(in(0x0fff), 0xa5);
  EXPECT_EQ(in(0x1000), 0xff);
  EXPECT_EQ(in(0x1fff), 0xff);
  EXPECT_EQ(in(0x2000), 0xa5);
  EXPECT_EQ(changes, (std::vector<std::pair<uint64_t, uint64_t>>{{0x1000, 0x1000}}));
  out(0x2000, 0x20);
  out(0x2000, 0xff);
  EXPECT_EQ(in(0x2000) & 0x30, 0x30);  // improper command sequence
  out(0, 0xff);
  EXPECT_EQ(in(0x2000), 0xa5);
}

TEST_F(PflashTest, ProgrammingClearsBitsAlone) {
  out(0x10, 0x10);
  out(0x10, 0x0f);
  out(0x11, 0x40);
  out(0x11, 0xff);
  EXPECT_EQ(in(0x10), 0x80);
  out(0, 0xff);
  EXPECT_EQ(in(0x10), 0x05);
  EXPECT_EQ(in(0x11), 0xa5);
  EXPECT_EQ(changes.size(), 2u);
}

TEST_F(PflashTest, WritesABufferOnConfirmationAndNothingWithout) {
  out(0x1000, 0x20), out(0x1000, 0xd0);
  for (uint8_t confirm : {0xff, 0xd0}) {
    out(0x1000, 0xe8);
    EXPECT_EQ(in(0x1000) & 0x80, 0x80);
    out(0x1000, 2);  // three bytes
    for (uint8_t i = 0; i < 3; i++) out(0x1010 + i, 0x30 + i);
    out(0x1000, confirm);
    out(0, 0x50), out(0, 0xff);
    EXPECT_EQ(in(0x1010), confirm == 0xd0 ? 0x30 : 0xff);
    EXPECT_EQ(in(0x1012), confirm == 0xd0 ? 0x32 : 0xff);
    EXPECT_EQ(in(0x1013), 0xff);
  }
}

// "Write to buffer": command and count have the block's address, the bytes their own. U-Boot's driver takes the block's first.
TEST_F(PflashTest, ABufferGoesWhereItsFirstByteGoesNotWhereTheCommandWent) {
  out(0x1000, 0x20), out(0x1000, 0xd0);
  out(0x1000, 0xe8);
  out(0x1000, 1);
  out(0x1340, 0x12), out(0x1341, 0x34);
  out(0x1000, 0xd0);
  EXPECT_EQ(in(0x1000), 0x80);  // ready, no error
  out(0x1000, 0xff);
  EXPECT_EQ(in(0x1340), 0x12);
  EXPECT_EQ(in(0x1341), 0x34);
  EXPECT_EQ(in(0x1040), 0xff);
  // What leaves the buffer's place is an error.
  out(0x1000, 0xe8);
  out(0x1000, 1);
  out(0x13ff, 0), out(0x1400, 0);
  EXPECT_EQ(in(0x1000) & 0x10, 0x10);
}

TEST_F(PflashTest, QueryTellsTheGeometry) {
  out(0x55, 0x98);
  EXPECT_EQ(in(0x10), 'Q');
  EXPECT_EQ(in(0x11), 'R');
  EXPECT_EQ(in(0x12), 'Y');
  EXPECT_EQ(in(0x13), 1);
  EXPECT_EQ(1u << in(0x27), kSize);
  EXPECT_EQ(in(0x2d) + 1u, kSize / Pflash::kBlockSize);
  EXPECT_EQ((in(0x2f) | in(0x30) << 8) * 256u, Pflash::kBlockSize);
  out(0, 0x90);
  EXPECT_EQ(in(0), 0x89);
}

TEST_F(PflashTest, AnySequenceOfCommandsStaysInsideOfTheArray) {
  std::mt19937 random(1);
  static constexpr uint8_t kCommands[] = {0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xd0, 0xe8, 0xff};
  for (int i = 0; i < 200000; i++) {
    const uint64_t offset = random() % 8 ? random() % kSize : kSize - random() % 4;
    uint8_t bytes[8];
    for (uint8_t& b : bytes) b = random() % 3 ? kCommands[random() % sizeof kCommands] : static_cast<uint8_t>(random());
    const size_t size = 1u << random() % 4;
    if (random() % 3)
      flash.write({offset}, std::as_bytes(std::span(bytes).first(size)));
    else
      flash.read({offset}, std::as_writable_bytes(std::span(bytes).first(size)));
  }
  for (auto [at, size] : changes) ASSERT_LE(at + size, kSize);
}

}  // namespace
}  // namespace vireo
