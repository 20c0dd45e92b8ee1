// SPDX-License-Identifier: Apache-2.0
#include "devices/pflash.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/log.h"

namespace vireo {
namespace {

constexpr uint8_t kReadArray = 0xff, kReadId = 0x90, kReadStatus = 0x70, kClearStatus = 0x50, kReadQuery = 0x98, kProgram = 0x40,
                  kProgramAlternate = 0x10, kErase = 0x20, kConfirm = 0xd0, kLockSetup = 0x60, kLock = 0x01, kWriteBuffer = 0xe8;
constexpr uint8_t kReady = 0x80, kEraseError = 0x20, kProgramError = 0x10;
constexpr uint8_t kManufacturer = 0x89, kDevice = 0x18;

}  // namespace

Pflash::Pflash(std::span<std::byte> array, Pins pins) : array_(array), pins_(std::move(pins)) {
  if (array.empty() || array.size() % kBlockSize) panic("pflash: %zu bytes", array.size());
}

void Pflash::show(Show what) {
  const bool before = show_ == Show::kArray, after = what == Show::kArray;
  show_ = what;
  if (before != after && pins_.show_array) pins_.show_array(after);
}

void Pflash::read(Access access, std::span<std::byte> data) {
  const Show shown = may_command() ? show_ : Show::kArray;
  for (size_t i = 0; i < data.size(); i++) {
    const uint64_t offset = access.offset + i;
    if (offset >= array_.size()) return;
    switch (shown) {
      case Show::kArray: data[i] = array_[offset]; break;
      case Show::kStatus: data[i] = std::byte{status_}; break;
      case Show::kQuery: data[i] = std::byte{query(offset)}; break;
      case Show::kId:
        // By block: manufacturer, device, and its lock (never locked).
        data[i] = std::byte(static_cast<uint8_t>(offset % kBlockSize == 0 ? kManufacturer : offset % kBlockSize == 1 ? kDevice : 0));
        break;
    }
  }
}

// JESD68.01: the identification string at 0x10, system interface at 0x1b, geometry at 0x27; Intel's extension at 0x31.
uint8_t Pflash::query(uint64_t offset) const {
  const uint64_t blocks = array_.size() / kBlockSize - 1;
  switch (offset & 0xff) {
    case 0x10: return 'Q';
    case 0x11: return 'R';
    case 0x12: return 'Y';
    case 0x13: return 0x01;  // primary command set
    case 0x15: return 0x31;  // its table
    case 0x1b: return 0x45;  // Vcc 4.5 to 5.5 V
    case 0x1c: return 0x55;
    case 0x1f: return 0x07;  // typical times: 128 us a byte, the same a buffer, 1 s a block
    case 0x20: return 0x07;
    case 0x21: return 0x0a;
    case 0x23: return 0x04;
    case 0x24: return 0x04;
    case 0x25: return 0x04;
    case 0x27: return static_cast<uint8_t>(std::bit_width(array_.size() - 1));  // the power of two that it fits
    case 0x28: return 0x00;  // 8 bits
    case 0x2a: return static_cast<uint8_t>(std::countr_zero(kBufferSize));
    case 0x2c: return 1;     // one kind of block
    case 0x2d: return static_cast<uint8_t>(blocks);
    case 0x2e: return static_cast<uint8_t>(blocks >> 8);
    case 0x2f: return static_cast<uint8_t>(kBlockSize >> 8);
    case 0x30: return static_cast<uint8_t>(kBlockSize >> 16);
    case 0x31: return 'P';
    case 0x32: return 'R';
    case 0x33: return 'I';
    case 0x34: return '1';
    case 0x35: return '0';
    default: return 0;
  }
}

void Pflash::write(Access access, std::span<const std::byte> data) {
  if (!may_command()) return;
  for (size_t i = 0; i < data.size(); i++)
    if (access.offset + i < array_.size()) write_byte(access.offset + i, std::to_integer<uint8_t>(data[i]));
}

void Pflash::finish(uint8_t status) {
  status_ |= kReady | status;
  expect_ = Expect::kCommand;
  show(Show::kStatus);
}

void Pflash::write_byte(uint64_t offset, uint8_t value) {
  switch (expect_) {
    case Expect::kCommand: return command(offset, value);
    case Expect::kByte:
      program(offset, std::span(&value, 1));
      return finish(0);
    case Expect::kEraseConfirm:
      if (value != kConfirm) return finish(kEraseError | kProgramError);  // improper sequence
      erase(offset);
      return finish(0);
    case Expect::kLockConfirm:
      return finish(value == kLock || value == kConfirm ? 0 : kEraseError | kProgramError);
    case Expect::kBufferCount:
      static_assert(kBufferSize == 256);  // any count fits
      buffer_left_ = static_cast<uint16_t>(value + 1);
      buffer_first_ = kBufferSize;
      buffer_end_ = 0;
      std::ranges::fill(buffer_written_, false);
      expect_ = Expect::kBufferData;
      return;
    case Expect::kBufferData: return buffer_byte(offset, value);
    case Expect::kBufferConfirm:
      if (value != kConfirm) return finish(kEraseError | kProgramError);
      for (uint16_t at = buffer_first_; at < buffer_end_; at++)
        if (buffer_written_[at]) program(buffer_block_ + at, std::span(&buffer_[at], 1));
      return finish(0);
  }
}

// The command and the count go to the block that is meant, which is wherever in it; the first byte says where in it the buffer goes.
void Pflash::buffer_byte(uint64_t offset, uint8_t value) {
  if (buffer_first_ == kBufferSize) buffer_block_ = offset & ~uint64_t{kBufferSize - 1};
  if ((offset & ~uint64_t{kBufferSize - 1}) != buffer_block_) return finish(kProgramError);  // left the buffer's place
  const auto at = static_cast<uint16_t>(offset - buffer_block_);
  buffer_[at] = value;
  buffer_written_[at] = true;
  buffer_first_ = std::min(buffer_first_, at);
  buffer_end_ = std::max<uint16_t>(buffer_end_, at + 1);
  if (--buffer_left_ == 0) expect_ = Expect::kBufferConfirm;
}

void Pflash::command(uint64_t, uint8_t value) {
  switch (value) {
    case kProgram: case kProgramAlternate:
      expect_ = Expect::kByte;
      return show(Show::kStatus);
    case kErase:
      expect_ = Expect::kEraseConfirm;
      return show(Show::kStatus);
    case kLockSetup:
      expect_ = Expect::kLockConfirm;
      return show(Show::kStatus);
    case kWriteBuffer:
      status_ |= kReady;  // a buffer is there
      expect_ = Expect::kBufferCount;
      return show(Show::kStatus);
    case kClearStatus:
      status_ = 0;
      return show(Show::kArray);
    case kReadStatus: return show(Show::kStatus);
    case kReadId: return show(Show::kId);
    case kReadQuery: return show(Show::kQuery);
    case kReadArray: default: return show(Show::kArray);  // also for what no chip knows
  }
}

// Programming clears bits, erasing sets them.
void Pflash::program(uint64_t offset, std::span<const uint8_t> bytes) {
  for (size_t i = 0; i < bytes.size() && offset + i < array_.size(); i++) array_[offset + i] &= std::byte{bytes[i]};
  if (pins_.changed && offset < array_.size()) pins_.changed(offset, std::min<uint64_t>(bytes.size(), array_.size() - offset));
}

void Pflash::erase(uint64_t offset) {
  const uint64_t block = offset & ~uint64_t{kBlockSize - 1};
  std::ranges::fill(array_.subspan(block, kBlockSize), std::byte{0xff});
  if (pins_.changed) pins_.changed(block, kBlockSize);
}

void Pflash::reset(ResetKind) {
  expect_ = Expect::kCommand;
  status_ = kReady;
  buffer_left_ = buffer_first_ = buffer_end_ = 0;
  buffer_block_ = 0;
  std::ranges::fill(buffer_, uint8_t{0});
  std::ranges::fill(buffer_written_, false);
  show(Show::kArray);
}

void Pflash::fields(Archive& archive) {
  Show what = show_;
  archive.field(1, "show", what);
  archive.field(2, "expect", expect_);
  archive.field(3, "status", status_);
  archive.field(4, "buffer_left", buffer_left_);
  archive.field(5, "buffer_block", buffer_block_);
  archive.field(6, "buffer_first", buffer_first_);
  archive.field(7, "buffer_end", buffer_end_);
  archive.field(8, "buffer", buffer_);
  archive.field(9, "buffer_written", buffer_written_);
  // A saved state is not trusted more than the guest.
  if (what > Show::kQuery) what = Show::kArray;
  if (expect_ > Expect::kBufferConfirm) expect_ = Expect::kCommand;
  buffer_block_ &= ~uint64_t{kBufferSize - 1};
  buffer_end_ = std::min<uint16_t>(buffer_end_, kBufferSize);
  for (bool& written : buffer_written_) written = reinterpret_cast<uint8_t&>(written) != 0;
  if (expect_ == Expect::kBufferData && buffer_left_ == 0) expect_ = Expect::kCommand;
  show(what);
}

}  // namespace vireo
