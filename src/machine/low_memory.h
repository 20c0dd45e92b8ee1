// SPDX-License-Identifier: Apache-2.0
// RAM below the 32-bit hole as the processors see it: around the hole for video memory and BIOS, and by address line 20, which two gates
// (the keyboard controller's and port 0x92) hold. While neither lets it pass, addresses wrap at each odd MiB, as an 8086's did at the first.
// That is shown below 16 MiB, what the machine that got the gate could address. Spec: Intel ICH9 data sheet, 13.7.2, ALT_A20_GATE;
// Intel SDM vol 3, 8.7.13.4, A20M#.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace vireo {

class LowMemory {
 public:
  static constexpr uint64_t kLine20 = 1 << 20, kWrapEnd = 16 << 20;
  enum class Gate { kKeyboard, kFast };
  struct Config {
    MemoryRegion ram;                       // from address 0
    uint64_t hole = 0, hole_end = 0;        // not RAM's; equal: there is none
    std::vector<uint64_t> cuts = {};        // where pieces end, in bytes before RAM's end: what hide_end() will name
    std::function<unsigned()> new_slot;
    // Size 0 deletes the slot.
    std::function<Result<>(unsigned slot, uint64_t start, uint64_t size, const std::byte* host)> set_slot;
  };

  explicit LowMemory(Config config) : config_(std::move(config)) {}

  Result<> map();
  // Any thread.
  void set(Gate gate, bool open);
  // The last bytes of the RAM are not there for the processors. Any thread.
  Result<> hide_end(uint64_t size);
  // What comes out of the gate.
  uint64_t passed(uint64_t address) const { return line20_.load(std::memory_order_relaxed) ? address : address & ~kLine20; }

 private:
  struct Piece {
    uint64_t size = 0;
    const std::byte* host = nullptr;
    unsigned slot = 0;
    bool operator==(const Piece& other) const { return size == other.size && host == other.host; }
  };
  using Pieces = std::map<uint64_t, Piece>;  // by address
  Pieces wanted(bool line20) const;
  Result<> apply(bool line20);

  Config config_;
  std::mutex mutex_;
  uint64_t hidden_ = 0;
  std::array<bool, 2> open_{true, true};
  std::atomic<bool> line20_ = true;
  Pieces pieces_;
  std::vector<unsigned> free_slots_;
};

}  // namespace vireo
