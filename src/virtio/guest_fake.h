// SPDX-License-Identifier: Apache-2.0
// A guest's side of a virtio-mmio device, for tests: negotiates, sets up queues with FakeDriver, rings, waits.
#pragma once

#include <gtest/gtest.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#include <map>
#include <memory>
#include <vector>

#include "base/archive.h"
#include "base/event_loop.h"
#include "virtio/driver_fake.h"
#include "virtio/mmio.h"

namespace vireo::virtio {

class FakeIrq final : public IrqLine {
 public:
  void set(bool on) override {
    level = on;
    rises += on;
  }
  std::atomic<bool> level = false;
  std::atomic<unsigned> rises = 0;
};

// Saves fields into a map, or loads them from one.
class MapArchive final : public Archive {
 public:
  explicit MapArchive(bool loading = false) : loading_(loading) {}
  void bytes(unsigned number, const char* name, std::span<std::byte> value) override {
    if (loading_) {
      auto& saved = fields.at(number);
      ASSERT_EQ(saved.size(), value.size()) << name;
      std::ranges::copy(saved, value.begin());
    } else {
      EXPECT_TRUE(fields.emplace(number, std::vector(value.begin(), value.end())).second) << name << " reuses " << number;
    }
  }
  MapArchive loader() const {
    MapArchive archive(true);
    archive.fields = fields;
    return archive;
  }
  std::map<unsigned, std::vector<std::byte>> fields;

 private:
  bool loading_;
};

class FakeGuest {
 public:
  explicit FakeGuest(std::unique_ptr<Device> device, GuestMemory& memory, FakeHeap& heap, EventLoop& loop)
      : heap(heap), loop(loop), mmio(Mmio::create(std::move(device), {memory, irq})) {}

  uint32_t get(uint64_t offset) {
    uint32_t value = 0xffffffff;
    mmio->read({offset}, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void set(uint64_t offset, uint32_t value) { mmio->write({offset}, std::as_bytes(std::span(&value, 1))); }
  template <class T>
  T config(uint64_t offset) {
    T value;
    mmio->read({VIRTIO_MMIO_CONFIG + offset}, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  template <class T>
  void set_config(uint64_t offset, T value) {
    mmio->write({VIRTIO_MMIO_CONFIG + offset}, std::as_bytes(std::span(&value, 1)));
  }

  uint64_t offered() {
    uint64_t features = 0;
    for (uint32_t half : {0, 1}) {
      set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
      features |= static_cast<uint64_t>(get(VIRTIO_MMIO_DEVICE_FEATURES)) << (32 * half);
    }
    return features;
  }
  bool negotiate(uint64_t features) {
    set(VIRTIO_MMIO_STATUS, 0);
    set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    for (uint32_t half : {0, 1}) {
      set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
      set(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features >> (32 * half)));
    }
    set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
    accepted = features;
    return get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK;
  }
  void set_up_queues(uint16_t largest = 64) {
    queues.clear();
    for (unsigned i = 0;; ++i) {
      set(VIRTIO_MMIO_QUEUE_SEL, i);
      uint16_t max = get(VIRTIO_MMIO_QUEUE_NUM_MAX);
      if (max == 0) break;
      queues.push_back(std::make_unique<FakeDriver>(
          heap, accepted >> VIRTIO_F_RING_PACKED & 1 ? Queue::Format::kPacked : Queue::Format::kSplit, std::min(max, largest),
          accepted >> VIRTIO_RING_F_EVENT_IDX & 1, accepted >> VIRTIO_RING_F_INDIRECT_DESC & 1));
      auto& config = queues.back()->config;
      set(VIRTIO_MMIO_QUEUE_NUM, config.size);
      auto address = [&](uint64_t low, GuestAddress a) {
        set(low, static_cast<uint32_t>(raw(a)));
        set(low + 4, static_cast<uint32_t>(raw(a) >> 32));
      };
      address(VIRTIO_MMIO_QUEUE_DESC_LOW, config.descriptors);
      address(VIRTIO_MMIO_QUEUE_AVAIL_LOW, config.driver);
      address(VIRTIO_MMIO_QUEUE_USED_LOW, config.device);
      set(VIRTIO_MMIO_QUEUE_READY, 1);
      queues.back()->want_interrupts(true);
    }
  }
  void driver_ok() { set(VIRTIO_MMIO_STATUS, get(VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK); }
  void start(uint64_t features) {
    ASSERT_TRUE(negotiate(features));
    set_up_queues();
    driver_ok();
    settle();
  }
  void start() { start(offered()); }

  void ring(unsigned index) { set(VIRTIO_MMIO_QUEUE_NOTIFY, index); }
  // Lets the loop do what it has to do now.
  void settle() {
    for (int i = 0; i < 4; ++i) loop.step(0);
  }
  FakeDriver::Used wait_used(unsigned index) {
    for (;;) {
      if (auto used = queues.at(index)->used()) return *used;
      loop.step(100);
    }
  }
  // One request through queue `index` to its end.
  FakeDriver::Used request(unsigned index, const std::vector<Buffer>& buffers) {
    queues.at(index)->add(buffers, accepted >> VIRTIO_RING_F_INDIRECT_DESC & 1);
    ring(index);
    return wait_used(index);
  }
  bool needs_reset() { return get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET; }

  FakeHeap& heap;
  EventLoop& loop;
  FakeIrq irq;
  std::unique_ptr<Mmio> mmio;
  std::vector<std::unique_ptr<FakeDriver>> queues;
  uint64_t accepted = 0;
};

}  // namespace vireo::virtio
