// SPDX-License-Identifier: Apache-2.0
#include "machine/low_memory.h"

#include <gtest/gtest.h>

#include <optional>

namespace vireo {
namespace {

// Remembers the slots as a hypervisor would, and refuses what one would refuse.
struct Slots {
  struct Slot {
    uint64_t start, size;
    const std::byte* host;
  };
  std::map<unsigned, Slot> slots;
  unsigned made = 0;
  uint64_t settled_below = 0;  // nothing comes or goes there

  Result<> set(unsigned number, uint64_t start, uint64_t size, const std::byte* host) {
    EXPECT_GE(start, settled_below);
    if (size == 0) {
      EXPECT_EQ(slots.erase(number), 1u);
      return {};
    }
    EXPECT_FALSE(slots.contains(number));
    for (auto& [other, slot] : slots) EXPECT_TRUE(start + size <= slot.start || slot.start + slot.size <= start);
    slots[number] = {start, size, host};
    return {};
  }
  std::optional<const std::byte*> host(uint64_t address) const {
    for (auto& [number, slot] : slots)
      if (address >= slot.start && address - slot.start < slot.size) return slot.host + (address - slot.start);
    return {};
  }
};

constexpr uint64_t kMiB = 1 << 20;

struct Fixture {
  explicit Fixture(uint64_t size, bool hole = true)
      : low({.ram = {GuestAddress{0}, size, base()}, .hole = hole ? 0xa0000u : 0, .hole_end = hole ? 0x100000u : 0,
             .new_slot = [this] { return slots.made++; },
             .set_slot = [this](unsigned n, uint64_t start, uint64_t bytes, const std::byte* host) { return slots.set(n, start, bytes, host); }}) {
    EXPECT_TRUE(low.map());
  }
  // Never looked at.
  static std::byte* base() { return reinterpret_cast<std::byte*>(0x10000000); }
  std::optional<uint64_t> at(uint64_t address) const {
    auto host = slots.host(address);
    if (!host) return {};
    return static_cast<uint64_t>(*host - base());
  }
  Slots slots;
  LowMemory low;
};

TEST(LowMemory, WithLine20EveryAddressIsItself) {
  Fixture f(64 * kMiB);
  EXPECT_EQ(f.at(0x1234), 0x1234u);
  EXPECT_EQ(f.at(0x101234), 0x101234u);
  EXPECT_EQ(f.at(63 * kMiB), 63 * kMiB);
  EXPECT_FALSE(f.at(0xb8000));
  EXPECT_FALSE(f.at(64 * kMiB));
  EXPECT_EQ(f.low.passed(0x1b8000), 0x1b8000u);
}

TEST(LowMemory, WithoutItOddMegabytesAreTheEvenOnesBelow) {
  Fixture f(64 * kMiB);
  f.low.set(LowMemory::Gate::kKeyboard, false);
  EXPECT_EQ(f.at(0x101234), 0x101234u) << "the other gate is open";
  f.low.set(LowMemory::Gate::kFast, false);
  // ffff:0010 to ffff:ffff are 0:0 to 0:ffef again.
  EXPECT_EQ(f.at(0x1234), 0x1234u);
  EXPECT_EQ(f.at(0x101234), 0x1234u);
  EXPECT_EQ(f.at(0x10ffef), 0xffefu);
  EXPECT_EQ(f.at(2 * kMiB + 5), 2 * kMiB + 5);
  EXPECT_EQ(f.at(3 * kMiB + 5), 2 * kMiB + 5);
  EXPECT_EQ(f.at(15 * kMiB), 14 * kMiB);
  EXPECT_EQ(f.at(17 * kMiB), 17 * kMiB);
  EXPECT_FALSE(f.at(0x1b8000)) << "devices there come to the bus";
  EXPECT_EQ(f.low.passed(0x1b8000), 0xb8000u);
  f.low.set(LowMemory::Gate::kKeyboard, true);
  EXPECT_EQ(f.at(0x101234), 0x101234u);
  EXPECT_EQ(f.at(63 * kMiB), 63 * kMiB);
}

TEST(LowMemory, ItsEndGoesAndComesAndTheRestStaysWhereItIs) {
  Slots slots;
  LowMemory low({.ram = {GuestAddress{0}, 64 * kMiB, Fixture::base()}, .hole = 0xa0000, .hole_end = 0x100000, .cuts = {16 * kMiB, 8 * kMiB, 2 * kMiB, kMiB},
                 .new_slot = [&] { return slots.made++; },
                 .set_slot = [&](unsigned n, uint64_t start, uint64_t bytes, const std::byte* host) { return slots.set(n, start, bytes, host); }});
  ASSERT_TRUE(low.map());
  slots.settled_below = 48 * kMiB;  // other processors run there
  auto slot_of = [&](uint64_t address) {
    for (auto& [number, slot] : slots.slots)
      if (address >= slot.start && address - slot.start < slot.size) return static_cast<int>(number);
    return -1;
  };
  EXPECT_NE(slot_of(55 * kMiB), -1);
  for (uint64_t hidden : {16 * kMiB, 8 * kMiB, kMiB, uint64_t{0}}) {
    ASSERT_TRUE(low.hide_end(hidden));
    EXPECT_NE(slot_of(kMiB), -1);
    EXPECT_EQ(slot_of(55 * kMiB) != -1, hidden < 16 * kMiB);
    EXPECT_NE(slot_of(64 * kMiB - hidden - 1), -1);
    EXPECT_EQ(slot_of(64 * kMiB - 1) != -1, hidden == 0);
    for (auto& [number, slot] : slots.slots) EXPECT_EQ(slot.host - Fixture::base(), static_cast<ptrdiff_t>(slot.start));
  }
}

TEST(LowMemory, SlotsAreUsedAgain) {
  Fixture f(64 * kMiB);
  for (int i = 0; i < 10; i++) {
    for (bool open : {false, true}) {
      f.low.set(LowMemory::Gate::kKeyboard, open);
      f.low.set(LowMemory::Gate::kFast, open);
    }
  }
  EXPECT_LE(f.slots.made, 18u);
  EXPECT_EQ(f.slots.slots.size(), 2u);
}

TEST(LowMemory, RamThatEndsInsideOfTheWrappedPart) {
  Fixture f(5 * kMiB / 2, false);
  f.low.set(LowMemory::Gate::kKeyboard, false);
  f.low.set(LowMemory::Gate::kFast, false);
  EXPECT_EQ(f.at(0x1b8000), 0xb8000u) << "no hole";
  EXPECT_EQ(f.at(3 * kMiB + 0x7ffff), 2 * kMiB + 0x7ffff);
  EXPECT_FALSE(f.at(3 * kMiB + 0x80000));
}

}  // namespace
}  // namespace vireo
