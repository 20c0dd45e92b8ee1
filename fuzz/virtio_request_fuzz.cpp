// SPDX-License-Identifier: Apache-2.0
// Well-formed rings with arbitrary requests, for each device: input is {device, then per request: queue, sizes, bytes}.
#include <cstdint>
#include <cstring>

#include "base/log.h"
#include "network/backend.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/disk_fake.h"
#include "virtio/mmio.h"
#include "virtio/net.h"
#include "virtio/rng.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

using namespace vireo;
using namespace vireo::virtio;

namespace {

class NoIrq final : public IrqLine {
 public:
  void set(bool) override {}
};

class Port final : public ConsolePort {
 public:
  size_t write(std::span<const std::byte> data) override { return data.size() / 2; }
  size_t read(std::span<std::byte> data) override { return std::min<size_t>(data.size(), turn_++ % 4); }
  void set_callbacks(std::function<void()>, std::function<void()>) override {}

 private:
  unsigned turn_ = 0;
};

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t byte() { return size_ ? (--size_, *data_++) : 0; }
  std::span<const std::byte> bytes(size_t n) {
    n = std::min(n, size_);
    auto out = std::as_bytes(std::span(data_, n));
    data_ += n, size_ -= n;
    return out;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

constexpr uint16_t kSize = 16;
struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  set_log_level(LogLevel::kError);
  static auto loop = std::move(*EventLoop::create());
  static auto memory = std::move(*GuestMemory::create({.size = 1 << 20, .transparent_huge_pages = false}, 3ull << 30));
  Input input(data, size);
  FakeDisk::Controls disk{.bytes = std::vector<std::byte>(1 << 16)};
  std::unique_ptr<virtio::Device> device;
  switch (input.byte() % 4) {
    case 0: device = std::move(*Blk::create({}, {*loop}, std::make_unique<FakeDisk>(disk))); break;
    case 1: device = std::move(*Net::create({.mac = {2, 0, 0, 0, 0, 1}}, {*loop}, std::make_unique<network::None>())); break;
    case 2: device = std::move(*Rng::create({}, {*loop, *loop, *loop})); break;
    default: {
      std::vector<std::unique_ptr<ConsolePort>> ends;
      for (int i = 0; i < 2; ++i) ends.push_back(std::make_unique<Port>());
      device = std::move(*Console::create({.ports = {{}, {"p", false}}}, {*loop}, std::move(ends)));
    }
  }
  NoIrq irq;
  auto mmio = Mmio::create(std::move(device), {*memory, irq});
  auto set = [&](uint64_t offset, uint32_t value) { mmio->write({offset}, std::as_bytes(std::span(&value, 1))); };
  auto get = [&](uint64_t offset) {
    uint32_t value = 0;
    mmio->read({offset}, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  };
  set(VIRTIO_MMIO_STATUS, 3);
  for (uint32_t half : {0, 1}) {
    set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
    set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
    uint32_t features = get(VIRTIO_MMIO_DEVICE_FEATURES);
    if (half == 1) features &= ~(1u << (VIRTIO_F_RING_PACKED - 32));
    set(VIRTIO_MMIO_DRIVER_FEATURES, features);
  }
  set(VIRTIO_MMIO_STATUS, 3 | 8);
  auto ram = memory->range(GuestAddress{0}, 1 << 20);
  unsigned queues = mmio->queue_count();
  auto base = [](unsigned q) { return 0x1000u * (q + 1); };
  for (unsigned q = 0; q < queues; ++q) {
    memset(&ram[base(q)], 0, 0x1000);
    set(VIRTIO_MMIO_QUEUE_SEL, q);
    set(VIRTIO_MMIO_QUEUE_NUM, kSize);
    set(VIRTIO_MMIO_QUEUE_DESC_LOW, base(q));
    set(VIRTIO_MMIO_QUEUE_AVAIL_LOW, base(q) + 0x400);
    set(VIRTIO_MMIO_QUEUE_USED_LOW, base(q) + 0x800);
    set(VIRTIO_MMIO_QUEUE_READY, 1);
  }
  set(VIRTIO_MMIO_STATUS, 3 | 8 | 4);
  std::vector<uint16_t> next(queues);
  while (!input.empty()) {
    unsigned q = input.byte() % queues;
    auto* descriptors = reinterpret_cast<Descriptor*>(&ram[base(q)]);
    unsigned count = 1 + input.byte() % 5;
    uint64_t place = 0x20000;
    for (unsigned i = 0; i < count; ++i) {
      uint8_t shape = input.byte();
      uint32_t length = shape & 0x7f;
      if (!(shape & 0x80)) std::ranges::copy(input.bytes(length), ram.begin() + static_cast<ptrdiff_t>(place));
      if (shape & 0x80 && length > 0x70) length <<= 9;
      descriptors[i] = {place, length, static_cast<uint16_t>((shape & 0x80 ? 2 : 0) | (i + 1 < count ? 1 : 0)), static_cast<uint16_t>(i + 1)};
      place += length;
    }
    auto* avail = reinterpret_cast<uint16_t*>(&ram[base(q) + 0x400]);
    avail[2 + next[q] % kSize] = 0;
    avail[1] = ++next[q];
    set(VIRTIO_MMIO_QUEUE_NOTIFY, q);
    loop->step(0);
  }
  return 0;
}
