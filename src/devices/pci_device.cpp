// SPDX-License-Identifier: Apache-2.0
#include "devices/pci_device.h"

#include <linux/pci_regs.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/log.h"

namespace vireo {
namespace {

constexpr uint16_t kCommandMask = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |
                                  PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE;

constexpr uint64_t kSmallestRom = 2048;  // bytes that a ROM's address register decodes at the least

bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) { return a < b + b_size && b < a + a_size; }

}  // namespace

PciDevice::PciDevice(const Identity& identity, Pins pins) : pins_(pins) {
  set_config_value<uint16_t>(PCI_VENDOR_ID, identity.vendor);
  set_config_value<uint16_t>(PCI_DEVICE_ID, identity.device);
  set_config_value<uint32_t>(PCI_CLASS_REVISION, identity.class_code << 8 | identity.revision);
  set_config_value<uint16_t>(PCI_SUBSYSTEM_VENDOR_ID, identity.subsystem_vendor);
  set_config_value<uint16_t>(PCI_SUBSYSTEM_ID, identity.subsystem);
  set_config_value<uint8_t>(PCI_INTERRUPT_PIN, identity.interrupt_pin ? 1 : 0);
  memcpy(&mask_[PCI_COMMAND], &kCommandMask, sizeof kCommandMask);
  mask_[PCI_CACHE_LINE_SIZE] = std::byte{0xff};
  mask_[PCI_INTERRUPT_LINE] = std::byte{0xff};
}

void PciDevice::set_config(uint16_t offset, std::span<const std::byte> bytes) {
  if (offset + bytes.size() > kConfigSize) panic("pci: configuration bytes beyond the space");
  std::ranges::copy(bytes, config_.begin() + offset);
  std::ranges::copy(bytes, initial_.begin() + offset);
}

void PciDevice::set_write_mask(uint16_t offset, std::span<const std::byte> mask) {
  if (offset + mask.size() > kConfigSize) panic("pci: write mask beyond the space");
  std::ranges::copy(mask, mask_.begin() + offset);
}

void PciDevice::add_bar(unsigned bar, uint64_t size, BarType type) {
  bool wide = type == BarType::kMemory64 || type == BarType::kMemory64Prefetchable;
  if (bar + (wide ? 1 : 0) >= kBars || !std::has_single_bit(size)) panic("pci: bad BAR %u", bar);
  bars_[bar].size = size;
  bars_[bar].type = type;
  uint32_t low = 0;
  uint64_t mask = ~(size - 1);
  switch (type) {
    case BarType::kIo:
      low = PCI_BASE_ADDRESS_SPACE_IO;
      mask &= 0xfffffffc;
      break;
    case BarType::kMemory32:
      mask &= 0xfffffff0;
      break;
    case BarType::kMemory32Prefetchable:
      low = PCI_BASE_ADDRESS_MEM_PREFETCH;
      mask &= 0xfffffff0;
      break;
    case BarType::kMemory64:
      low = PCI_BASE_ADDRESS_MEM_TYPE_64;
      mask &= ~0xfull;
      break;
    case BarType::kMemory64Prefetchable:
      low = PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH;
      mask &= ~0xfull;
      break;
  }
  uint16_t offset = PCI_BASE_ADDRESS_0 + bar * 4;
  set_config_value<uint32_t>(offset, low);
  memcpy(&mask_[offset], &mask, wide ? 8 : 4);
}

void PciDevice::add_doorbell(unsigned bar, Doorbell doorbell) { bars_[bar].doorbells.push_back(std::move(doorbell)); }

void PciDevice::set_bar_memory(unsigned bar, std::span<std::byte> memory) {
  if (memory.size() != bars_[bar].size) panic("pci: memory of another size than BAR %u", bar);
  bars_[bar].memory = memory;
}

void PciDevice::add_rom(std::vector<std::byte> rom) {
  const uint64_t size = std::bit_ceil(std::max<uint64_t>(rom.size(), kSmallestRom));
  rom.resize(size, std::byte{0xff});
  rom_ = std::move(rom);
  bars_[kRom].size = size;
  const auto mask = static_cast<uint32_t>(~(size - 1) | PCI_ROM_ADDRESS_ENABLE);
  memcpy(&mask_[PCI_ROM_ADDRESS], &mask, sizeof mask);
}

unsigned PciDevice::add_capability(uint8_t id, std::span<const std::byte> body, std::span<const std::byte> write_mask) {
  unsigned offset = next_capability_;
  unsigned size = (2 + static_cast<unsigned>(body.size()) + 3) & ~3u;
  if (offset + size > 0x100) panic("pci: no room for capability %02x", id);
  next_capability_ += size;
  set_config_value<uint8_t>(offset, id);
  set_config_value<uint8_t>(offset + 1, 0);
  set_config(offset + 2, body);
  set_write_mask(offset + 2, write_mask);
  set_config_value<uint8_t>(last_capability_ ? last_capability_ + 1 : PCI_CAPABILITY_LIST, offset);
  if (!last_capability_) set_config_value<uint16_t>(PCI_STATUS, config16(PCI_STATUS) | PCI_STATUS_CAP_LIST);
  last_capability_ = offset;
  return offset;
}

void PciDevice::add_msix(unsigned vectors, unsigned bar, uint32_t table_offset, uint32_t pba_offset) {
  if (!pins_.msi) return;
  msix_ = std::make_unique<Msix>(vectors, *pins_.msi);
  msix_bar_ = bar;
  msix_table_offset_ = table_offset;
  msix_pba_offset_ = pba_offset;
  if (bar >= kBars || table_offset % 8 || pba_offset % 8 || table_offset + msix_->table_size() > bars_[bar].size ||
      pba_offset + msix_->pba_size() > bars_[bar].size)
    panic("pci: MSI-X outside BAR %u", bar);
  struct [[gnu::packed]] {
    uint16_t control;
    uint32_t table;
    uint32_t pba;
  } body{static_cast<uint16_t>(msix_->vectors() - 1), table_offset | bar, pba_offset | bar};
  struct [[gnu::packed]] {
    uint16_t control = PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL;
    uint32_t table = 0, pba = 0;
  } mask;
  msix_capability_ =
      add_capability(PCI_CAP_ID_MSIX, std::as_bytes(std::span(&body, 1)), std::as_bytes(std::span(&mask, 1)));
}

uint16_t PciDevice::config16(uint16_t offset) const {
  uint16_t value;
  memcpy(&value, &config_[offset], sizeof value);
  return value;
}

void PciDevice::read_config(uint16_t offset, std::span<std::byte> data) {
  if (offset + data.size() > kConfigSize) return;
  before_config_read(offset, data.size());
  std::copy_n(config_.begin() + offset, data.size(), data.begin());
  if (overlaps(offset, data.size(), PCI_STATUS, 1)) {
    std::lock_guard lock(intx_mutex_);
    if (intx_level_) data[PCI_STATUS - offset] |= std::byte{PCI_STATUS_INTERRUPT};
  }
}

void PciDevice::write_config(uint16_t offset, std::span<const std::byte> data) {
  if (offset + data.size() > kConfigSize) return;
  for (size_t i = 0; i < data.size(); i++) {
    std::byte mask = mask_[offset + i];
    config_[offset + i] = (config_[offset + i] & ~mask) | (data[i] & mask);
  }
  bool command = overlaps(offset, data.size(), PCI_COMMAND, 2);
  if (command) update_command();
  if (msix_ && overlaps(offset, data.size(), msix_capability_ + PCI_MSIX_FLAGS, 2)) update_msix();
  after_config_write(offset, data.size());
  if (parent_ && (command || overlaps(offset, data.size(), PCI_BASE_ADDRESS_0, 4 * kBars) || overlaps(offset, data.size(), PCI_ROM_ADDRESS, 4))) parent_->decoding_changed(*this);
}

uint64_t PciDevice::bar_value(unsigned bar) const {
  uint64_t value = 0;
  if (bar == kRom) {
    memcpy(&value, &config_[PCI_ROM_ADDRESS], 4);
    return value & PCI_ROM_ADDRESS_MASK & ~(bars_[kRom].size - 1);
  }
  bool wide = bars_[bar].type == BarType::kMemory64 || bars_[bar].type == BarType::kMemory64Prefetchable;
  memcpy(&value, &config_[PCI_BASE_ADDRESS_0 + bar * 4], wide ? 8 : 4);
  return value & ~(bars_[bar].type == BarType::kIo ? 0x3ull : 0xfull);
}

uint64_t PciDevice::bar_address(unsigned bar) const {
  if (bar >= kWindows || !bars_[bar].size) return kNotDecoded;
  if (bar == kRom && !(std::to_integer<unsigned>(config_[PCI_ROM_ADDRESS]) & PCI_ROM_ADDRESS_ENABLE)) return kNotDecoded;
  bool io = bars_[bar].type == BarType::kIo;
  if (!(config16(PCI_COMMAND) & (io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY))) return kNotDecoded;
  uint64_t address = bar_value(bar);
  // Address 0 is what reset leaves, and the all-ones of a sizing probe reaches past the end of the space: neither is a place.
  uint64_t limit = io ? 0x10000 : bars_[bar].type == BarType::kMemory32 || bars_[bar].type == BarType::kMemory32Prefetchable ? 1ull << 32 : 1ull << 52;
  if (address == 0 || address >= limit || bars_[bar].size > limit - address) return kNotDecoded;
  if (io ? address + bars_[bar].size >= limit : address + bars_[bar].size == limit) return kNotDecoded;
  return address;
}

void PciDevice::read(unsigned bar, Access access, std::span<std::byte> data) {
  if (bar >= kWindows || access.offset >= bars_[bar].size || data.size() > bars_[bar].size - access.offset) return;
  if (msix_ && bar == msix_bar_) {
    if (overlaps(access.offset, data.size(), msix_table_offset_, msix_->table_size())) {
      if (access.offset >= msix_table_offset_) msix_->read_table({access.offset - msix_table_offset_}, data);
      return;
    }
    if (overlaps(access.offset, data.size(), msix_pba_offset_, msix_->pba_size())) {
      if (access.offset >= msix_pba_offset_) msix_->read_pba({access.offset - msix_pba_offset_}, data);
      return;
    }
  }
  if (bar == kRom)
    std::copy_n(rom_.begin() + static_cast<ptrdiff_t>(access.offset), data.size(), data.begin());
  else
    read_bar(bar, access, data);
}

void PciDevice::write(unsigned bar, Access access, std::span<const std::byte> data) {
  if (bar >= kBars || access.offset >= bars_[bar].size || data.size() > bars_[bar].size - access.offset) return;
  if (msix_ && bar == msix_bar_) {
    if (overlaps(access.offset, data.size(), msix_table_offset_, msix_->table_size())) {
      if (access.offset >= msix_table_offset_) msix_->write_table({access.offset - msix_table_offset_}, data);
      return;
    }
    if (overlaps(access.offset, data.size(), msix_pba_offset_, msix_->pba_size())) return;
  }
  write_bar(bar, access, data);
}

bool PciDevice::bus_master() const { return config16(PCI_COMMAND) & PCI_COMMAND_MASTER; }

void PciDevice::set_intx(bool level) {
  std::lock_guard lock(intx_mutex_);
  if (intx_level_ == level) return;
  intx_level_ = level;
  if (pins_.intx && !intx_disabled_) pins_.intx->set(level);
}

// What the command register says to the pin and to messages.
void PciDevice::update_command() {
  if (msix_) msix_->set_bus_master(bus_master());
  std::lock_guard lock(intx_mutex_);
  bool disabled = config16(PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE;
  if (disabled == intx_disabled_) return;
  intx_disabled_ = disabled;
  if (pins_.intx && intx_level_) pins_.intx->set(!disabled);
}

void PciDevice::update_msix() { msix_->set_control(config16(msix_capability_ + PCI_MSIX_FLAGS)); }

void PciDevice::reset(ResetKind kind) {
  set_intx(false);
  config_ = initial_;
  update_command();
  if (msix_) msix_->reset();
  device_reset(kind);
  if (parent_) parent_->decoding_changed(*this);
}

void PciDevice::fields(Archive& archive) {
  archive.bytes(100, "pci_config", config_);
  bool level = intx_level_;
  archive.field(101, "pci_intx_level", level);
  set_intx(level);  // a load finds a pin that knows nothing of it
  if (msix_) msix_->fields(archive);
  device_fields(archive);
  update_command();
  if (parent_) parent_->decoding_changed(*this);
}

}  // namespace vireo
