// SPDX-License-Identifier: Apache-2.0
#include "machine/bus.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

namespace vireo {
namespace {

// A thread's own copy of a bus's map, good as long as the map is the same. Locks that all vCPUs share would cost each access more than the lookup.
template <class Region>
struct Seen {
  uint64_t serial = 0, generation = 0;
  std::vector<Region> regions;  // in order
};
std::atomic<uint64_t> serials{0};

}  // namespace

Bus::Bus() : serial_(++serials) {}

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
  generation_++;
  return {};
}

void Bus::remove(uint64_t start) {
  std::unique_lock lock(mutex_);
  regions_.erase(start);
  generation_++;
}

const Bus::Region* Bus::find(uint64_t address, size_t size) const {
  thread_local std::array<Seen<Region>, 2> seen;  // a machine has two buses
  Seen<Region>& mine = seen[serial_ % seen.size()];
  if (mine.serial != serial_ || mine.generation != generation_.load(std::memory_order_acquire)) {
    std::lock_guard lock(mutex_);
    mine.serial = serial_;
    mine.generation = generation_.load(std::memory_order_relaxed);
    mine.regions.clear();
    for (const auto& [start, region] : regions_) mine.regions.push_back(region);
  }
  auto next = std::ranges::upper_bound(mine.regions, address, {}, &Region::start);
  if (next == mine.regions.begin()) return nullptr;
  const Region& found = *std::prev(next);
  uint64_t offset = address - found.start;
  // An access that runs over the region's end belongs to nobody whole.
  return offset < found.size && size <= found.size - offset ? &found : nullptr;
}

template <class F>
void Bus::access(uint64_t address, size_t size, F f) {
  const Region* found = size ? find(address, size) : nullptr;
  if (!found) return;
  // A device may change the map from inside an access, and so what `found` points into.
  Device& device = *found->device;
  const uint64_t offset = found->base + address - found->start;
  const std::shared_ptr<std::mutex> device_lock = found->mutex;
  std::lock_guard lock(*device_lock);
  f(device, Access{offset});
}

void Bus::read(uint64_t address, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0xff});
  access(address, data.size(), [data](Device& device, Access at) { device.read(at, data); });
}

void Bus::write(uint64_t address, std::span<const std::byte> data) {
  access(address, data.size(), [data](Device& device, Access at) { device.write(at, data); });
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
