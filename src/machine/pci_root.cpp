// SPDX-License-Identifier: Apache-2.0
#include "machine/pci_root.h"

#include <ranges>

#include <linux/pci_regs.h>

#include <cstring>

#include "base/log.h"

namespace vireo {
namespace {

constexpr uint64_t kAddressPort = 0xcf8;
constexpr uint32_t kEnable = 1u << 31;

}  // namespace

// Ports 0xcf8 to 0xcff: offsets 0 to 3 the address, 4 to 7 the data.
class PciRoot::ConfigPorts final : public Device {
 public:
  ConfigPorts(PciRoot& root, Device& reset_control) : root_(root), reset_control_(reset_control) {}

  void read(Access access, std::span<std::byte> data) override {
    if (access.offset >= 4) {
      if (address_ & kEnable)
        root_.config_read(address_ >> 16 & 0xff, address_ >> 8 & 0xff, (address_ & 0xfc) + (access.offset & 3), data);
    } else if (access.offset == 0 && data.size() == 4) {
      memcpy(data.data(), &address_, 4);
    } else if (access.offset == 1 && data.size() == 1) {
      reset_control_.read({0}, data);
    }
  }
  void write(Access access, std::span<const std::byte> data) override {
    if (access.offset >= 4) {
      if (address_ & kEnable)
        root_.config_write(address_ >> 16 & 0xff, address_ >> 8 & 0xff, (address_ & 0xfc) + (access.offset & 3), data);
    } else if (access.offset == 0 && data.size() == 4) {
      memcpy(&address_, data.data(), 4);
      address_ &= 0x80fffffc;
    } else if (access.offset == 1 && data.size() == 1) {
      reset_control_.write({0}, data);
    }
  }
  void reset(ResetKind) override { address_ = 0; }
  void fields(Archive& archive) override { archive.field(1, "address", address_); }

 private:
  PciRoot& root_;
  Device& reset_control_;
  uint32_t address_ = 0;
};

class PciRoot::Ecam final : public Device {
 public:
  explicit Ecam(PciRoot& root) : root_(root) {}
  void read(Access access, std::span<std::byte> data) override {
    if (data.size() > 4) return;
    root_.config_read(access.offset >> 20 & 0xff, access.offset >> 12 & 0xff, access.offset & 0xfff, data);
  }
  void write(Access access, std::span<const std::byte> data) override {
    if (data.size() > 4) return;
    root_.config_write(access.offset >> 20 & 0xff, access.offset >> 12 & 0xff, access.offset & 0xfff, data);
  }
  void reset(ResetKind) override {}
  void fields(Archive&) override {}

 private:
  PciRoot& root_;
};

PciRoot::PciRoot(Bus& ports, Bus& mmio, Doorbells& doorbells, Device& reset_control, MemorySlots slots)
    : ports_(ports), mmio_(mmio), doorbells_(doorbells), slots_(std::move(slots)), config_ports_(std::make_unique<ConfigPorts>(*this, reset_control)),
      ecam_(std::make_unique<Ecam>(*this)) {}

PciRoot::~PciRoot() {
  for (auto& function : functions_)
    if (function)
      for (Window& window : function->windows) unmap(window);
}

Result<> PciRoot::map() { return ports_.add(kAddressPort, 8, *config_ports_); }

void PciRoot::map_ecam(uint64_t address, uint64_t size) {
  std::lock_guard lock(map_mutex_);
  if (ecam_at_ == address && ecam_size_ == size) return;
  if (ecam_size_) mmio_.remove(ecam_at_);
  ecam_at_ = address;
  // As with a BAR: nothing where something else is.
  ecam_size_ = size && mmio_.add(address, size, *ecam_) ? size : 0;
  map_waiting();
}

PciRoot::Range PciRoot::high_bars() {
  Range range;
  for (auto& function : functions_) {
    if (!function) continue;
    std::lock_guard lock(function->mutex);
    for (unsigned bar = 0; bar < PciDevice::kWindows; bar++) {
      uint64_t address = function->device->bar_address(bar);
      if (address == PciDevice::kNotDecoded || address < 1ull << 32) continue;
      range.start = std::min(range.start, address);
      range.end = std::max(range.end, address + function->device->bar(bar).size);
    }
  }
  return range;
}

Result<> PciRoot::add(unsigned slot, unsigned function, std::unique_ptr<PciDevice> device) {
  auto& place = functions_[slot * kFunctions + function];
  if (slot >= kSlots || function >= kFunctions || place) return fail(ErrorKind::kInvalid, "PCI slot " + std::to_string(slot) + " is taken");
  place = std::make_unique<Function>();
  place->device = std::move(device);
  for (unsigned bar = 0; bar < PciDevice::kWindows; bar++) {
    Window& window = place->windows[bar];
    window.device = place->device.get();
    window.mutex = &place->mutex;
    window.bar = bar;
    window.io = place->device->bar(bar).type == PciDevice::BarType::kIo;
    if (!place->device->bar(bar).memory.empty()) window.slot = slots_.add();
  }
  place->device->set_parent(this);
  return {};
}

bool PciRoot::occupied(unsigned slot) const {
  for (unsigned function = 0; function < kFunctions; function++)
    if (functions_[slot * kFunctions + function]) return true;
  return false;
}

PciRoot::Function* PciRoot::find(unsigned bus, unsigned slot, unsigned function) {
  return bus == 0 ? functions_[slot * kFunctions + function].get() : nullptr;
}

void PciRoot::config_read(unsigned bus, unsigned devfn, unsigned offset, std::span<std::byte> data) {
  Function* function = find(bus, devfn >> 3, devfn & 7);
  if (!function) return;
  std::lock_guard lock(function->mutex);
  function->device->read_config(static_cast<uint16_t>(offset), data);
}

void PciRoot::config_write(unsigned bus, unsigned devfn, unsigned offset, std::span<const std::byte> data) {
  Function* function = find(bus, devfn >> 3, devfn & 7);
  if (!function) return;
  std::lock_guard lock(function->mutex);
  function->device->write_config(static_cast<uint16_t>(offset), data);
}

void PciRoot::unmap(Window& window) {
  if (window.mapped_at == PciDevice::kNotDecoded) return;
  (window.io ? ports_ : mmio_).remove(window.mapped_at);
  doorbells_.detach(window.mapped_at, window.io);
  if (const auto& memory = window.device->bar(window.bar).memory; !memory.empty()) (void)slots_.set(window.slot, window.mapped_at, 0, nullptr);
  window.mapped_at = PciDevice::kNotDecoded;
}

// A BAR put over another region decodes nothing, since on a real bus both would answer and neither be understood; until the other is gone.
void PciRoot::map(Window& window, Function& function) {
  const PciDevice::Bar& bar = window.device->bar(window.bar);
  if (!(window.io ? ports_ : mmio_).add(window.decodes, bar.size, window)) return;
  window.mapped_at = window.decodes;
  doorbells_.attach(window.mapped_at, window.io, bar.doorbells);
  // Where there is no slot for it, accesses come to the device.
  if (!bar.memory.empty())
    if (auto set = slots_.set(window.slot, window.mapped_at, bar.memory.size(), bar.memory.data()); !set && function.complaints.allow())
      log(LogLevel::kError, "PCI memory: %s", set.error().message.c_str());
}

void PciRoot::map_waiting() {
  for (auto& function : functions_) {
    if (!function) continue;
    for (Window& window : function->windows)
      if (window.mapped_at != window.decodes) map(window, *function);
  }
}

void PciRoot::decoding_changed(PciDevice& device) {
  std::lock_guard lock(map_mutex_);
  for (auto& function : functions_) {
    if (!function || function->device.get() != &device) continue;
    for (Window& window : function->windows) {
      window.decodes = device.bar_address(window.bar);
      if (window.decodes != window.mapped_at) unmap(window);
    }
  }
  map_waiting();
}

void PciRoot::reset(ResetKind kind) {
  {
    auto lock = ports_.lock(*config_ports_);
    config_ports_->reset(kind);
  }
  // The host bridge, which is the first, comes last: it gives memory back that a BAR may lie over.
  for (auto& function : std::views::reverse(functions_)) {
    if (!function) continue;
    std::lock_guard lock(function->mutex);
    function->device->reset(kind);
  }
}

void PciRoot::assign(Windows w, const std::function<uint8_t(unsigned)>& interrupt_line) {
  for (unsigned index = 0; index < functions_.size(); index++) {
    auto& function = functions_[index];
    if (!function) continue;
    std::lock_guard lock(function->mutex);
    PciDevice& device = *function->device;
    uint16_t command = PCI_COMMAND_MASTER;
    for (unsigned bar = 0; bar < PciDevice::kWindows; bar++) {
      const PciDevice::Bar& b = device.bar(bar);
      if (!b.size) continue;
      bool io = b.type == PciDevice::BarType::kIo;
      bool wide = b.type == PciDevice::BarType::kMemory64 || b.type == PciDevice::BarType::kMemory64Prefetchable;
      auto take = [&](uint64_t& at, uint64_t end) -> uint64_t {
        uint64_t start = (at + b.size - 1) & ~(b.size - 1);
        if (start < at || start > end || b.size > end - start) return 0;
        at = start + b.size;
        return start;
      };
      uint64_t address = io ? take(w.io, w.io_end) : take(w.memory, w.memory_end);
      if (!address && wide) address = take(w.high, w.high_end);
      if (!address) {
        log(LogLevel::kWarning, "PCI function %u: no room for BAR %u of 0x%llx bytes", index, bar, static_cast<unsigned long long>(b.size));
        continue;
      }
      if (bar == PciDevice::kRom) {  // given a place, but off: a kernel that wants to read it switches it on
        auto word = static_cast<uint32_t>(address);
        device.write_config(PCI_ROM_ADDRESS, std::as_bytes(std::span(&word, 1)));
        continue;
      }
      command |= io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
      for (unsigned i = 0; i < (wide ? 2u : 1u); i++) {
        auto word = static_cast<uint32_t>(address >> 32 * i);
        device.write_config(static_cast<uint16_t>(PCI_BASE_ADDRESS_0 + 4 * (bar + i)), std::as_bytes(std::span(&word, 1)));
      }
    }
    uint8_t line = interrupt_line(index / kFunctions);
    device.write_config(PCI_INTERRUPT_LINE, std::as_bytes(std::span(&line, 1)));
    device.write_config(PCI_COMMAND, std::as_bytes(std::span(&command, 1)));
  }
}

}  // namespace vireo
