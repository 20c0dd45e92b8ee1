// SPDX-License-Identifier: Apache-2.0
#include "devices/fw_cfg.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/log.h"

namespace vireo {
namespace {

constexpr uint32_t kTraditional = 1, kHasDma = 2;  // of the item kId
constexpr uint32_t kError = 1, kRead = 2, kSkip = 4, kSelect = 8, kWrite = 16;  // of a control block
constexpr uint64_t kDmaSignature = 0x51454d5520434647;  // "QEMU CFG"
constexpr uint16_t kWriteChannel = 0x4000;  // of the selector; by the data port no item can be written

// DMA's numbers are big-endian.
template <class T>
T big(T value) {
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  return __builtin_bswap16(value);
}

struct ControlBlock {
  uint32_t control, length;
  uint64_t address;
};
static_assert(sizeof(ControlBlock) == 16);

struct DirectoryEntry {
  uint32_t size;
  uint16_t key, reserved;
  char name[FwCfg::kNameRoom];
};
static_assert(sizeof(DirectoryEntry) == 64);

}  // namespace

FwCfg::FwCfg(Pins pins) : pins_(std::move(pins)) {
  set_bytes(kSignature, {std::byte{'Q'}, std::byte{'E'}, std::byte{'M'}, std::byte{'U'}});
  set<uint32_t>(kId, kTraditional | (pins_.write_memory ? kHasDma : 0));
  write_directory();
}

void FwCfg::set_bytes(uint16_t key, std::vector<std::byte> bytes) {
  Item& item = items_[key];
  item.own = std::move(bytes);
  item.bytes = item.own;
}

void FwCfg::set_view(uint16_t key, std::span<const std::byte> bytes) {
  Item& item = items_[key];
  item.own.clear();
  item.bytes = bytes;
}

void FwCfg::set_file(const std::string& name, std::vector<std::byte> bytes) {
  if (name.size() >= kNameRoom || (!files_.contains(name) && files_.size() == kMostFiles)) panic("fw_cfg: file %s", name.c_str());
  auto [file, added] = files_.emplace(name, static_cast<uint16_t>(kFirstFile + files_.size()));
  const size_t before = added ? 0 : items_[file->second].bytes.size();
  set_bytes(file->second, std::move(bytes));
  if (added || before != items_[file->second].bytes.size()) write_directory();
}

void FwCfg::set_writable_file(const std::string& name, std::vector<std::byte> bytes) {
  set_file(name, std::move(bytes));
  items_[files_.at(name)].writable = true;
}

std::span<const std::byte> FwCfg::file(const std::string& name) const {
  const auto found = files_.find(name);
  return found == files_.end() ? std::span<const std::byte>{} : items_.at(found->second).bytes;
}

void FwCfg::renew_before(const std::vector<std::string>& files, const std::function<void()>& renew) {
  for (const std::string& name : files)
    if (auto file = files_.find(name); file != files_.end()) items_[file->second].renew = renew;
}

void FwCfg::write_directory() {
  std::vector<std::byte> bytes;
  auto append = [&bytes](const auto& value) {
    auto more = std::as_bytes(std::span(&value, 1));
    bytes.insert(bytes.end(), more.begin(), more.end());
  };
  append(big(static_cast<uint32_t>(files_.size())));
  for (const auto& [name, key] : files_) {
    DirectoryEntry entry{.size = big(static_cast<uint32_t>(items_[key].bytes.size())), .key = big(key), .reserved = 0, .name = {}};
    std::ranges::copy(name, entry.name);
    append(entry);
  }
  set_bytes(kFileDirectory, std::move(bytes));
}

void FwCfg::select(uint16_t key) {
  selected_ = key & ~kWriteChannel;
  at_ = 0;
  auto item = items_.find(selected_);
  if (item != items_.end() && item->second.renew) item->second.renew();
}

void FwCfg::read(Access access, std::span<std::byte> data) {
  if (access.offset == kData) {
    auto item = items_.find(selected_);
    for (std::byte& out : data) out = item != items_.end() && at_ < item->second.bytes.size() ? item->second.bytes[at_++] : std::byte{0};
  } else if (access.offset >= kDma && pins_.write_memory) {
    const uint64_t value = big(kDmaSignature);
    for (size_t i = 0; i < data.size() && access.offset + i < kPorts; i++)
      data[i] = std::byte(static_cast<uint8_t>(value >> 8 * (access.offset - kDma + i)));
  }
}

void FwCfg::write(Access access, std::span<const std::byte> data) {
  if (access.offset == kSelector && data.size() == 2) {
    uint16_t key;
    memcpy(&key, data.data(), sizeof key);
    select(key);
  } else if (access.offset >= kDma && pins_.write_memory && data.size() == 4) {
    uint32_t half;
    memcpy(&half, data.data(), sizeof half);
    if (access.offset == kDma) dma_high_ = big(half);
    // The low half starts the transfer; the high one does not stay.
    if (access.offset == kDma + 4) transfer(uint64_t{std::exchange(dma_high_, 0)} << 32 | big(half));
  } else if (access.offset == kDma && pins_.write_memory && data.size() == 8) {
    uint64_t whole;
    memcpy(&whole, data.data(), sizeof whole);
    dma_high_ = 0;
    transfer(big(whole));
  }
}

// Copies from the selected item to guest memory; behind the item's end there are zeros.
bool FwCfg::copy(uint64_t address, uint64_t size) {
  static constexpr std::array<std::byte, 65536> kZeros{};
  auto item = items_.find(selected_);
  while (size) {
    std::span<const std::byte> from = kZeros;
    if (item != items_.end() && at_ < item->second.bytes.size()) from = item->second.bytes.subspan(at_);
    from = from.first(std::min<uint64_t>({from.size(), size, kZeros.size()}));
    if (!pins_.write_memory(address, from)) return false;
    at_ += from.size();
    if (address + from.size() < address) return false;
    address += from.size();
    size -= from.size();
  }
  return true;
}

// Copies from guest memory into the selected item, which has to have room for all of it.
bool FwCfg::take(uint64_t address, uint64_t size) {
  auto item = items_.find(selected_);
  if (item == items_.end() || !item->second.writable) return false;
  std::vector<std::byte>& bytes = item->second.own;
  if (at_ > bytes.size() || size > bytes.size() - at_) return false;
  std::vector<std::byte> taken(size);
  if (!pins_.read_memory(address, taken)) return false;
  std::ranges::copy(taken, bytes.begin() + static_cast<ptrdiff_t>(at_));
  at_ += size;
  return true;
}

void FwCfg::transfer(uint64_t control_block) {
  ControlBlock block{};
  if (!pins_.read_memory(control_block, std::as_writable_bytes(std::span(&block, 1)))) return;  // nowhere to tell the error
  const uint32_t control = big(block.control), length = big(block.length);
  if (control & kSelect) select(static_cast<uint16_t>(control >> 16));
  bool ok = true;
  if (control & kRead)
    ok = copy(big(block.address), length);
  else if (control & kWrite)
    ok = take(big(block.address), length);
  else if (control & kSkip)
    at_ += length;
  const uint32_t result = big(ok ? 0 : kError);
  (void)pins_.write_memory(control_block, std::as_bytes(std::span(&result, 1)));
}

void FwCfg::reset(ResetKind) {
  selected_ = 0;
  at_ = 0;
  dma_high_ = 0;
}

void FwCfg::fields(Archive& archive) {
  archive.field(1, "selected", selected_);
  archive.field(2, "at", at_);
  archive.field(3, "dma_high", dma_high_);
  for (auto& [key, item] : items_)
    if (item.writable) archive.bytes(0x10000u + key, "written", item.own);
}

}  // namespace vireo
