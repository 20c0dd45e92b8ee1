// SPDX-License-Identifier: Apache-2.0
// Rings made of arbitrary bytes, in both formats, while a device serves them. The input is the guest's memory from the
// rings on; what comes out must lie in RAM and be bounded.
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/log.h"
#include "memory/guest_memory.h"
#include "virtio/queue.h"

using namespace vireo;
using namespace vireo::virtio;

namespace {

constexpr uint64_t kRam = 1 << 20;

void check(std::span<const iovec> parts, uint64_t size, const GuestMemory& memory) {
  const std::byte* start = memory.regions()[0].host;
  uint64_t total = 0;
  for (const iovec& part : parts) {
    auto* p = static_cast<const std::byte*>(part.iov_base);
    if (p < start || p + part.iov_len > start + kRam || part.iov_len == 0) panic("a buffer outside RAM");
    total += part.iov_len;
  }
  if (total != size) panic("sizes disagree");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static std::unique_ptr<GuestMemory> memory = [] {
    set_log_level(LogLevel::kError);
    return std::move(*GuestMemory::create({.size = kRam, .transparent_huge_pages = false}, 3ull << 30));
  }();
  if (size < 4) return 0;
  Queue::Config config;
  config.format = data[0] & 1 ? Queue::Format::kPacked : Queue::Format::kSplit;
  config.event_idx = data[0] & 2;
  config.indirect = data[0] & 4;
  config.size = static_cast<uint16_t>(data[0] & 8 ? data[1] : 1u << (data[1] % 6));
  config.descriptors = GuestAddress{0x1000};
  config.driver = GuestAddress{0x1400};
  config.device = GuestAddress{0x1600};
  uint8_t choices = data[2];
  data += 3, size -= 3;
  auto ram = memory->range(GuestAddress{0}, kRam);
  memset(&ram[0x1000], 0, 0x2000);
  memcpy(&ram[0x1000], data, std::min<size_t>(size, 0x2000));

  unsigned broken = 0;
  Queue queue(*memory, config, [&] { ++broken; });
  std::vector<Chain> held;
  unsigned served = 0;
  for (int round = 0; round < 4; ++round) {
    queue.drain([&](Chain chain) {
      check(chain.readable(), chain.readable_size(), *memory);
      check(chain.writable(), chain.writable_size(), *memory);
      char head[16];
      chain.take_value(head);
      if (choices & 1) chain.take_last_writable();
      if (chain.writable_size() < 4096) chain.put(3, std::as_bytes(std::span(head)));
      uint32_t used = static_cast<uint32_t>(chain.writable_size());
      if (++served % 3 == 0 && choices & 2) {
        queue.restore(std::move(chain));
        return false;
      }
      if (choices & 4 && held.size() < 8)
        held.push_back(std::move(chain));
      else
        queue.push(std::move(chain), used);
      queue.needs_interrupt();
      return served < 2000;
    });
    if (queue.in_flight() > config.size) panic("more in flight than the ring holds");
    while (!held.empty() && !(choices & 2)) {
      queue.push(std::move(held.back()), 0);
      held.pop_back();
    }
  }
  if (broken > 1 || (broken == 1) != queue.broken()) panic("broken must be told once");
  return 0;
}
