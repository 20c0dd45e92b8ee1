// SPDX-License-Identifier: Apache-2.0
// Expected values: Intel 3 Series Express Chipset Family data sheet, PAM registers: bit 0 of a nibble reads from RAM, bit 1 writes to it.
#include "machine/shadow_memory.h"

#include <gtest/gtest.h>

#include <vector>

namespace vireo {
namespace {

class ShadowMemoryTest : public testing::Test {
 protected:
  struct Slot {
    uint64_t start, size;
    const std::byte* host;
    bool read_only;
  };
  std::vector<std::byte> ram = std::vector<std::byte>(ShadowMemory::kSize, std::byte{0x11});
  std::vector<std::byte> rom = std::vector<std::byte>(0x40000, std::byte{0x22});
  std::map<unsigned, Slot> slots;
  int changes = 0;
  ShadowMemory memory{{ram, rom},
                      [this](unsigned number, uint64_t start, uint64_t size, const std::byte* host, bool read_only) -> Result<> {
                        changes++;
                        if (!size) {
                          EXPECT_EQ(slots.erase(number), 1u);
                          return {};
                        }
                        EXPECT_LT(number, ShadowMemory::kSegments);
                        for (auto& [other, slot] : slots) EXPECT_TRUE(start + size <= slot.start || slot.start + slot.size <= start);
                        EXPECT_TRUE(slots.emplace(number, Slot{start, size, host, read_only}).second);
                        return {};
                      },
                      [](uint64_t, uint64_t) {}};

  void set(std::array<uint8_t, 7> pam) { ASSERT_TRUE(memory.set(pam)); }
  const Slot* at(uint64_t address) {
    for (auto& [number, slot] : slots)
      if (address - slot.start < slot.size) return &slot;
    return nullptr;
  }
  // As the guest would: through the slot, or else as a device access.
  uint8_t load(uint64_t address) {
    if (const Slot* slot = at(address)) return std::to_integer<uint8_t>(slot->host[address - slot->start]);
    std::byte value{0xff};
    memory.read({address - ShadowMemory::kStart}, std::span(&value, 1));
    return std::to_integer<uint8_t>(value);
  }
  void store(uint64_t address, uint8_t value) {
    const Slot* slot = at(address);
    if (slot && !slot->read_only)
      const_cast<std::byte&>(slot->host[address - slot->start]) = std::byte{value};
    else
      memory.write({address - ShadowMemory::kStart}, std::as_bytes(std::span(&value, 1)));
  }
};

TEST_F(ShadowMemoryTest, AfterResetTheRomIsSeenAndNothingBelowIt) {
  set({});
  rom.back() = std::byte{0x33};
  EXPECT_EQ(load(0xfffff), 0x33);
  EXPECT_EQ(load(0xe0000), 0x22);
  EXPECT_EQ(load(0xdffff), 0xff);
  store(0xfffff, 0x44);
  EXPECT_EQ(load(0xfffff), 0x33);
  EXPECT_EQ(ram.back(), std::byte{0x11});
}

TEST_F(ShadowMemoryTest, WritesGoToRamBelowTheRomThatIsRead) {
  set({0x20, 0, 0, 0, 0, 0, 0x20});
  for (uint64_t address : {0xf0000, 0xfffff, 0xec000}) {
    store(address, 0x55);
    EXPECT_EQ(load(address), 0x22);
    EXPECT_EQ(ram[address - 0xc0000], std::byte{0x55});
  }
  store(0xe8000, 0x55);
  EXPECT_EQ(ram[0x28000], std::byte{0x11});
}

TEST_F(ShadowMemoryTest, ReadOnlyRamKeepsItsBytes) {
  set({0x10, 0x01, 0, 0, 0, 0, 0});
  for (uint64_t address : {0xf1234, 0xc0000}) {
    EXPECT_EQ(load(address), 0x11);
    store(address, 0x66);
    EXPECT_EQ(load(address), 0x11);
  }
}

TEST_F(ShadowMemoryTest, AllRamIsOneSlot) {
  set({0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33});
  EXPECT_EQ(slots.size(), 1u);
  store(0xc4000, 0x77);
  EXPECT_EQ(load(0xc4000), 0x77);
}

TEST_F(ShadowMemoryTest, WhatDoesNotChangeIsLeftAlone) {
  set({});
  changes = 0;
  set({0, 0x33, 0, 0, 0, 0, 0});
  EXPECT_EQ(changes, 1);
  set({0, 0x33, 0, 0, 0, 0, 0});
  EXPECT_EQ(changes, 1);
}

// All 2^14 halves of states, segment by segment, against the rule itself.
TEST_F(ShadowMemoryTest, EverySegmentFollowsItsOwnNibble) {
  for (unsigned pattern = 0; pattern < 4; pattern++)
    for (unsigned segment = 0; segment < 13; segment++) {
      std::array<uint8_t, 7> pam{};
      unsigned other = 3 - pattern;
      for (unsigned s = 0; s < 13; s++) {
        uint8_t value = static_cast<uint8_t>(s == segment ? pattern : other);
        if (s == 12)
          pam[0] |= value << 4;
        else
          pam[1 + s / 2] |= value << (s % 2 * 4);
      }
      std::ranges::fill(ram, std::byte{0x11});
      set(pam);
      for (unsigned s = 0; s < 13; s++) {
        unsigned value = s == segment ? pattern : other;
        uint64_t address = 0xc0000 + s * 0x4000;
        uint8_t outside = address >= 0xe0000 ? 0x22 : 0xff;
        EXPECT_EQ(load(address), value & 1 ? 0x11 : outside);
        store(address, 0x99);
        EXPECT_EQ(ram[address - 0xc0000], std::byte{static_cast<uint8_t>(value & 2 ? 0x99 : 0x11)});
      }
    }
}

}  // namespace
}  // namespace vireo
