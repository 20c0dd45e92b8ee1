// SPDX-License-Identifier: Apache-2.0
// A NOR flash chip, 8 bits wide, with Intel's command set (CFI 0x0001): firmware's variables live in one. While it shows its array whoever maps
// it may let the guest read the bytes as memory; every write is a command.
// Spec: Intel 28F640 (StrataFlash) data sheet, commands; JEDEC JESD68.01, Common Flash Interface. Two things are as QEMU's machine has them and
// firmware expects: a cleared status reads 0 and not "ready", and a single-byte program leaves the chip showing its status.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "devices/device.h"

namespace vireo {

class Pflash final : public Device {
 public:
  static constexpr uint32_t kBlockSize = 4096;
  static constexpr uint32_t kBufferSize = 256;
  struct Pins {
    std::function<void(bool)> show_array = {};                          // the chip has begun or ended to show its array
    std::function<void(uint64_t offset, uint64_t size)> changed = {};  // bytes of the array: to be kept
    std::function<bool()> may_command = {};  // asked at each access: else writes do nothing, and reads are the array's. Absent: always
  };

  // `array` outlives the chip; its size is a multiple of kBlockSize.
  Pflash(std::span<std::byte> array, Pins pins);

  void read(Access access, std::span<std::byte> data) override;
  void write(Access access, std::span<const std::byte> data) override;
  void reset(ResetKind kind) override;
  void fields(Archive& archive) override;  // not the array

 private:
  enum class Show : uint8_t { kArray, kStatus, kId, kQuery };
  // What the next write is taken for.
  enum class Expect : uint8_t { kCommand, kByte, kEraseConfirm, kLockConfirm, kBufferCount, kBufferData, kBufferConfirm };

  bool may_command() const { return !pins_.may_command || pins_.may_command(); }
  void command(uint64_t offset, uint8_t value);
  void write_byte(uint64_t offset, uint8_t value);
  void buffer_byte(uint64_t offset, uint8_t value);
  void show(Show what);
  void finish(uint8_t status);
  void erase(uint64_t offset);
  void program(uint64_t offset, std::span<const uint8_t> bytes);
  uint8_t query(uint64_t offset) const;

  std::span<std::byte> array_;
  Pins pins_;
  Show show_ = Show::kArray;
  Expect expect_ = Expect::kCommand;
  uint8_t status_ = 0x80;
  uint16_t buffer_left_ = 0;  // bytes that are still to come
  uint64_t buffer_block_ = 0;
  uint16_t buffer_first_ = 0, buffer_end_ = 0;  // the span of the buffer that was written
  uint8_t buffer_[kBufferSize] = {};
  bool buffer_written_[kBufferSize] = {};
};

}  // namespace vireo
