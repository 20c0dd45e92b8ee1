// SPDX-License-Identifier: Apache-2.0
#include "machine/shadow_memory.h"

#include <cstring>

namespace vireo {

ShadowMemory::ShadowMemory(Config config, SetSlot set_slot, std::function<void(uint64_t, uint64_t)> notice_write)
    : config_(config), set_slot_(std::move(set_slot)), notice_write_(std::move(notice_write)) {
  if (config_.rom.size() > kRomSize) config_.rom = config_.rom.last(kRomSize);
}

const std::byte* ShadowMemory::rom_at(uint64_t address) const {
  const uint64_t from_end = kEnd - address;
  return from_end <= config_.rom.size() ? config_.rom.data() + (config_.rom.size() - from_end) : nullptr;
}

// Neighbours that are one piece of host memory become one slot.
std::map<uint64_t, ShadowMemory::Slot> ShadowMemory::wanted() const {
  std::map<uint64_t, Slot> slots;
  for (unsigned segment = 0; segment < kSegments; segment++) {
    const uint64_t start = start_of(segment), size = size_of(segment);
    const bool ram = attributes_[segment] & kReadRam;
    const std::byte* host = ram ? config_.ram.data() + (start - kStart) : rom_at(start);
    if (!host) continue;
    Slot slot{.size = size, .host = host, .read_only = !ram || !(attributes_[segment] & kWriteRam)};
    if (!slots.empty()) {
      auto& [before, last] = *slots.rbegin();
      if (before + last.size == start && last.host + last.size == host && last.read_only == slot.read_only) {
        last.size += size;
        continue;
      }
    }
    slots[start] = slot;
  }
  return slots;
}

Result<> ShadowMemory::set(std::span<const uint8_t, kRegisters> registers) {
  attributes_[kSegments - 1] = registers[0] >> 4 & 3;
  for (unsigned i = 0; i < kSegments - 1; i++) attributes_[i] = registers[1 + i / 2] >> (i % 2 ? 4 : 0) & 3;
  auto next = wanted();
  uint32_t used = 0;
  for (auto it = slots_.begin(); it != slots_.end();) {
    auto found = next.find(it->first);
    if (found != next.end() && found->second.same(it->second)) {
      used |= 1u << it->second.number;
      found->second = it->second;
      ++it;
    } else {
      TRY_VOID(set_slot_(it->second.number, it->first, 0, nullptr, false));
      it = slots_.erase(it);
    }
  }
  for (auto& [start, slot] : next) {
    if (slots_.contains(start)) continue;
    slot.number = static_cast<unsigned>(__builtin_ctz(~used));
    used |= 1u << slot.number;
    TRY_VOID(set_slot_(slot.number, start, slot.size, slot.host, slot.read_only));
    slots_[start] = slot;
  }
  return {};
}

void ShadowMemory::read(Access access, std::span<std::byte> data) {
  for (size_t i = 0; i < data.size() && access.offset + i < kSize; i++) {
    const uint64_t offset = access.offset + i;
    if (attributes_[segment_of(offset)] & kReadRam)
      data[i] = config_.ram[offset];
    else if (const std::byte* rom = rom_at(kStart + offset))
      data[i] = *rom;
  }
}

void ShadowMemory::write(Access access, std::span<const std::byte> data) {
  for (size_t i = 0; i < data.size() && access.offset + i < kSize; i++)
    if (const uint64_t offset = access.offset + i; attributes_[segment_of(offset)] & kWriteRam) {
      config_.ram[offset] = data[i];
      notice_write_(kStart + offset, 1);
    }
}

}  // namespace vireo
