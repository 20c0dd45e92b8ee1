// SPDX-License-Identifier: Apache-2.0
#include "machine/bus.h"

#include <algorithm>
#include <cstdio>

namespace vireo {

Result<> Bus::add(uint64_t start, uint64_t size, Device& device, uint64_t base) {
  std::unique_lock lock(mutex_);
  auto next = regions_.lower_bound(start);
  bool overlaps = next != regions_.end() && next->first - start < size;
  if (next != regions_.begin()) {
    const Region& before = std::prev(next)->second;
    overlaps |= start - before.start < before.size;
  }
  if (size == 0 || overlaps) {
    char text[80];
    snprintf(text, sizeof text, "bus: region 0x%llx, 0x%llx bytes, overlaps another", static_cast<unsigned long long>(start),
             static_cast<unsigned long long>(size));
    return fail(ErrorKind::kInvalid, text);
  }
  auto& device_lock = locks_[&device];
  if (!device_lock) device_lock = std::make_shared<std::mutex>();
  regions_[start] = {start, size, base, &device, device_lock};
  return {};
}

void Bus::remove(uint64_t start) {
  std::unique_lock lock(mutex_);
  regions_.erase(start);
}

bool Bus::find(uint64_t address, size_t size, Region& region) const {
  std::shared_lock lock(mutex_);
  auto next = regions_.upper_bound(address);
  if (next == regions_.begin()) return false;
  const Region& found = std::prev(next)->second;
  uint64_t offset = address - found.start;
  // An access that runs over the region's end belongs to nobody whole.
  if (offset >= found.size || size > found.size - offset) return false;
  region = found;
  return true;
}

void Bus::read(uint64_t address, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0xff});
  Region region;
  if (data.empty() || !find(address, data.size(), region)) return;
  // The map's lock is not held here: a device may change the map from inside an access.
  std::lock_guard lock(*region.mutex);
  region.device->read({region.base + address - region.start}, data);
}

void Bus::write(uint64_t address, std::span<const std::byte> data) {
  Region region;
  if (data.empty() || !find(address, data.size(), region)) return;
  std::lock_guard lock(*region.mutex);
  region.device->write({region.base + address - region.start}, data);
}

std::unique_lock<std::mutex> Bus::lock(Device& device) {
  std::shared_ptr<std::mutex> device_lock;
  {
    std::unique_lock lock(mutex_);
    auto& entry = locks_[&device];
    if (!entry) entry = std::make_shared<std::mutex>();
    device_lock = entry;
  }
  return std::unique_lock(*device_lock);
}

}  // namespace vireo
