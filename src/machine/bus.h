// SPDX-License-Identifier: Apache-2.0
// An address space of devices: ports or memory-mapped I/O. Regions may come and go while vCPUs run (PCI BARs move); each device
// has a lock of its own, which the bus holds during an access.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>

#include "base/result.h"
#include "devices/device.h"

namespace vireo {

class Bus {
 public:
  Bus();
  // Maps [start, start+size). `base` is the device's offset of the first byte. Fails when it overlaps another region.
  Result<> add(uint64_t start, uint64_t size, Device& device, uint64_t base = 0);
  void remove(uint64_t start);

  // Addresses nobody decodes read as all ones and swallow writes.
  void read(uint64_t address, std::span<std::byte> data);
  void write(uint64_t address, std::span<const std::byte> data);

  // For work on a device outside an access (reset, save): the same lock the accesses take.
  std::unique_lock<std::mutex> lock(Device& device);

 private:
  struct Region {
    uint64_t start, size, base;
    Device* device;
    std::shared_ptr<std::mutex> mutex;
  };
  // Calls f(device, offset), with the device's lock, for the one that has all of [address, address+size).
  template <class F>
  void access(uint64_t address, size_t size, F f);
  // Good until the thread's next access to a bus.
  const Region* find(uint64_t address, size_t size) const;

  const uint64_t serial_;  // of all buses that there ever were
  mutable std::mutex mutex_;
  std::atomic<uint64_t> generation_{1};  // of the map
  std::map<uint64_t, Region> regions_;
  std::unordered_map<Device*, std::shared_ptr<std::mutex>> locks_;
};

}  // namespace vireo
