// SPDX-License-Identifier: Apache-2.0
// Expected values: the fw_cfg interface as documented with the QEMU project, docs/specs/fw_cfg.
#include "devices/fw_cfg.h"

#include <gtest/gtest.h>

#include <cstring>

namespace vireo {
namespace {

class FwCfgTest : public testing::Test {
 protected:
  static constexpr uint64_t kBlock = 0x100;
  std::vector<uint8_t> memory = std::vector<uint8_t>(0x10000, 0xee);
  bool fits(uint64_t at, size_t size) const { return at <= memory.size() && size <= memory.size() - at; }
  FwCfg device{{[this](uint64_t at, std::span<std::byte> out) {
                  if (!fits(at, out.size())) return false;
                  memcpy(out.data(), &memory[at], out.size());
                  return true;
                },
                [this](uint64_t at, std::span<const std::byte> in) {
                  if (!fits(at, in.size())) return false;
                  memcpy(&memory[at], in.data(), in.size());
                  return true;
                }}};

  static std::vector<std::byte> bytes(std::string_view text) {
    auto b = std::as_bytes(std::span(text));
    return {b.begin(), b.end()};
  }
  void select(uint16_t key) { device.write({0}, std::as_bytes(std::span(&key, 1))); }
  std::string take(size_t count) {
    std::string out(count, 0);
    for (char& c : out) device.read({1}, std::as_writable_bytes(std::span(&c, 1)));
    return out;
  }
  void out32(uint64_t offset, uint32_t value) { device.write({offset}, std::as_bytes(std::span(&value, 1))); }
  // Runs a control block given in the host's order; returns the control word left behind.
  uint32_t dma(uint32_t control, uint32_t length, uint64_t address, uint64_t block = kBlock) {
    for (int i = 0; i < 4; i++) memory[kBlock + i] = control >> (24 - 8 * i);
    for (int i = 0; i < 4; i++) memory[kBlock + 4 + i] = length >> (24 - 8 * i);
    for (int i = 0; i < 8; i++) memory[kBlock + 8 + i] = address >> (56 - 8 * i);
    out32(4, __builtin_bswap32(static_cast<uint32_t>(block >> 32)));
    out32(8, __builtin_bswap32(static_cast<uint32_t>(block)));
    return uint32_t{memory[kBlock]} << 24 | memory[kBlock + 1] << 16 | memory[kBlock + 2] << 8 | memory[kBlock + 3];
  }
};

TEST_F(FwCfgTest, SignatureAndFeatures) {
  select(0);
  EXPECT_EQ(take(4), "QEMU");
  select(1);
  EXPECT_EQ(take(4), std::string("\3\0\0\0", 4));
  char signature[8];
  device.read({4}, std::as_writable_bytes(std::span(signature).first(4)));
  device.read({8}, std::as_writable_bytes(std::span(signature).last(4)));
  EXPECT_EQ(std::string(signature, 8), "QEMU CFG");
}

TEST_F(FwCfgTest, WithoutMemoryThereIsNoDma) {
  FwCfg plain;
  uint32_t id = 0;
  plain.write({0}, std::as_bytes(std::span("\1\0", 2)));
  for (int i = 0; i < 4; i++) plain.read({1}, std::as_writable_bytes(std::span(&id, 1)).subspan(i, 1));
  EXPECT_EQ(id, 1u);
  uint32_t open = ~0u;
  plain.read({4}, std::as_writable_bytes(std::span(&open, 1)));
  EXPECT_EQ(open, ~0u);
}

TEST_F(FwCfgTest, PastTheEndOfAnItemAndOfAllItemsThereAreZeros) {
  device.set<uint16_t>(5, 0x1234);
  select(5);
  EXPECT_EQ(take(4), std::string("\x34\x12\0\0", 4));
  select(0x3fff);
  EXPECT_EQ(take(2), std::string(2, 0));
}

TEST_F(FwCfgTest, TheDirectoryIsBigEndianAndNamesEveryFile) {
  device.set_file("etc/b", bytes("hello"));
  device.set_file("etc/a", bytes("x"));
  select(0x19);
  EXPECT_EQ(take(4), std::string("\0\0\0\2", 4));
  std::string first = take(64), second = take(64);
  EXPECT_EQ(first.substr(0, 4), std::string("\0\0\0\1", 4));
  EXPECT_EQ(first.substr(8, 6), std::string("etc/a\0", 6));
  EXPECT_EQ(second.substr(0, 4), std::string("\0\0\0\5", 4));
  select(static_cast<uint8_t>(second[4]) << 8 | static_cast<uint8_t>(second[5]));
  EXPECT_EQ(take(5), "hello");
}

TEST_F(FwCfgTest, DmaSelectsReadsAndGoesOn) {
  device.set_file("f", bytes("abcdef"));
  EXPECT_EQ(dma(0x20u << 16 | 8 | 2, 2, 0x1000), 0u);
  EXPECT_EQ(dma(4, 1, 0), 0u);
  EXPECT_EQ(dma(2, 5, 0x2000), 0u);
  EXPECT_EQ(memcmp(&memory[0x1000], "ab\xee", 3), 0);
  EXPECT_EQ(memcmp(&memory[0x2000], "def\0\0\xee", 6), 0);
}

TEST_F(FwCfgTest, DmaOutsideOfMemoryIsAnErrorAndWritingToo) {
  EXPECT_EQ(dma(0x19u << 16 | 8 | 2, 0xffffffff, 0xff00), 1u);
  EXPECT_EQ(dma(0x19u << 16 | 8 | 2, 16, ~0ull - 4), 1u);
  EXPECT_EQ(dma(16, 4, 0x1000), 1u);
}

TEST_F(FwCfgTest, AFileThatMayBeWrittenTakesWhatFitsByDma) {
  device.set_writable_file("etc/asked", bytes("0123"));
  device.set_file("etc/told", bytes("abcd"));
  memcpy(&memory[0x1000], "wxyz", 4);
  EXPECT_EQ(dma(0x20u << 16 | 8 | 16, 2, 0x1000), 0u);
  EXPECT_EQ(dma(16, 2, 0x1002), 0u);  // goes on
  select(0x20);
  EXPECT_EQ(take(5), std::string_view("wxyz\0", 5));
  EXPECT_EQ(dma(0x20u << 16 | 8 | 16, 5, 0x1000), 1u);          // too much
  EXPECT_EQ(dma(0x20u << 16 | 8 | 16, 4, memory.size() - 2), 1u);  // not memory
  EXPECT_EQ(dma(0x21u << 16 | 8 | 16, 4, 0x1000), 1u);          // not to be written
  const auto now = device.file("etc/asked"), other = device.file("etc/told");
  EXPECT_TRUE(std::ranges::equal(now, bytes("wxyz")));
  EXPECT_TRUE(std::ranges::equal(other, bytes("abcd")));
}

TEST_F(FwCfgTest, AControlBlockOutsideOfMemoryIsIgnored) {
  EXPECT_EQ(dma(2, 4, 0x1000, 1ull << 40), 2u);
  EXPECT_EQ(dma(2, 4, 0x1000, memory.size() - 8), 2u);
  EXPECT_EQ(memory[0x1000], 0xee);
}

TEST_F(FwCfgTest, TheHighHalfOfTheAddressIsForOneTransfer) {
  out32(4, 1);
  device.reset(ResetKind::kCold);
  EXPECT_EQ(dma(2, 1, 0x1000), 0u);
  out32(4, __builtin_bswap32(7));
  out32(8, __builtin_bswap32(kBlock));  // at 28 GiB: nothing there
  EXPECT_EQ(dma(2, 1, 0x1000), 0u);
}

TEST_F(FwCfgTest, FilesAreRenewedWhenTheyAreSelected) {
  device.set_file("f", bytes("old"));
  device.renew_before({"f"}, [this] { device.set_file("f", bytes("new")); });
  select(0x20);
  EXPECT_EQ(take(3), "new");
}

}  // namespace
}  // namespace vireo
