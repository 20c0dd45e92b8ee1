// SPDX-License-Identifier: Apache-2.0
// One PCI function: its configuration space with write masks, base address registers, capabilities, MSI-X and interrupt pin.
// A device derives from it, declares what it has in its constructor, and then sees only offsets inside its BARs.
// Spec: PCI Local Bus 3.0, chapter 6; PCI Express Base 5.0, 7.5. Register names are those of <linux/pci_regs.h>.
//
//   class Foo : public PciDevice {
//     Foo(const Identity& id, Pins pins) : PciDevice(id, pins) {
//       add_bar(0, 0x4000, BarType::kMemory64Prefetchable);
//       unsigned cap = add_capability(PCI_CAP_ID_VNDR, body);   // body: what follows id and next pointer
//       add_msix(3, /*bar=*/1, /*table_offset=*/0, /*pba_offset=*/0x800);   // after add_bar(1, ...)
//     }
//     void read_bar(unsigned bar, Access, std::span<std::byte>) override; ...
//   };
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/archive.h"
#include "devices/device.h"
#include "devices/doorbell.h"
#include "devices/msix.h"

namespace vireo {

class PciDevice;

// The bus above a function, told when what the function decodes has changed (BAR or command register written).
class PciParent {
 public:
  virtual ~PciParent() = default;
  virtual void decoding_changed(PciDevice& device) = 0;
};

class PciDevice {
 public:
  struct Identity {
    uint16_t vendor = 0;
    uint16_t device = 0;
    uint32_t class_code = 0;  // 24 bits: base class, subclass, interface
    uint8_t revision = 0;
    uint16_t subsystem_vendor = 0;
    uint16_t subsystem = 0;
    bool interrupt_pin = true;  // has INTA#
  };
  struct Pins {
    MsiSink* msi = nullptr;    // null: the function gets no MSI-X whatever it asks for
    IrqLine* intx = nullptr;   // INTA#, active high here
  };
  enum class BarType { kIo, kMemory32, kMemory32Prefetchable, kMemory64, kMemory64Prefetchable };
  struct Bar {
    uint64_t size = 0;  // 0: not there; else a power of two
    BarType type = BarType::kMemory32;
    std::vector<Doorbell> doorbells;
    std::span<std::byte> memory;  // what the guest may read (and, but for a ROM, write) as its own memory, without coming to the device
  };
  // Behind the BARs comes the expansion ROM, as one more.
  static constexpr unsigned kBars = 6, kRom = kBars, kWindows = kBars + 1;
  static constexpr unsigned kConfigSize = 4096;

  PciDevice(const Identity& identity, Pins pins);
  virtual ~PciDevice() = default;
  PciDevice(const PciDevice&) = delete;
  PciDevice& operator=(const PciDevice&) = delete;

  // Configuration space, 1, 2 or 4 bytes; offsets up to kConfigSize. The caller holds the function's lock.
  void read_config(uint16_t offset, std::span<std::byte> data);
  void write_config(uint16_t offset, std::span<const std::byte> data);

  // Accesses to a BAR. They pass through the base class, which serves the MSI-X table; the rest reaches read_bar/write_bar.
  void read(unsigned bar, Access access, std::span<std::byte> data);
  void write(unsigned bar, Access access, std::span<const std::byte> data);

  // Where BAR `bar` decodes now: its address, or kNotDecoded when it is absent, unset or switched off by the command register.
  static constexpr uint64_t kNotDecoded = ~0ull;
  uint64_t bar_address(unsigned bar) const;
  const Bar& bar(unsigned index) const { return bars_[index]; }

  void set_parent(PciParent* parent) { parent_ = parent; }
  void reset(ResetKind kind);      // configuration space to its first contents, then device_reset()
  void fields(Archive& archive);   // numbers 100 to 299; then device_fields(), which has the others

 protected:
  // What a device brings. `access.offset` is inside the BAR and the whole access fits it; `data` is all ones before a read.
  virtual void read_bar(unsigned bar, Access access, std::span<std::byte> data) = 0;
  virtual void write_bar(unsigned bar, Access access, std::span<const std::byte> data) = 0;
  virtual void device_reset(ResetKind kind) = 0;
  virtual void device_fields(Archive& archive) = 0;
  // Around configuration accesses: `offset`, `size` as accessed, e.g. for VIRTIO_PCI_CAP_PCI_CFG's data window. before_config_read may
  // update config(); after_config_write sees config() as masked and stored.
  virtual void before_config_read(uint16_t offset, size_t size) {}
  virtual void after_config_write(uint16_t offset, size_t size) {}

  // For constructors. A 64-bit BAR also takes the next index.
  void add_bar(unsigned bar, uint64_t size, BarType type);
  void add_doorbell(unsigned bar, Doorbell doorbell);
  // Host memory of a BAR's size, page-aligned, that outlives the function.
  void set_bar_memory(unsigned bar, std::span<std::byte> memory);
  // An expansion ROM: code for the machine's firmware. Spec: PCI Local Bus 3.0, 6.2.5.2, 6.3.
  void add_rom(std::vector<std::byte> rom);
  // Adds a capability: id, pointer to the next, then `body`. Bits set in `write_mask` (as long as body, or empty) are the guest's to
  // write. Returns its offset. Aborts when the 192 bytes are used up.
  unsigned add_capability(uint8_t id, std::span<const std::byte> body, std::span<const std::byte> write_mask = {});
  // Adds the MSI-X capability with its table and pending bits inside a BAR already added. Without Pins::msi nothing is added.
  void add_msix(unsigned vectors, unsigned bar, uint32_t table_offset, uint32_t pba_offset);
  // Makes config bytes [offset, offset+mask.size()) writable where mask has ones.
  void set_write_mask(uint16_t offset, std::span<const std::byte> mask);
  void set_config(uint16_t offset, std::span<const std::byte> bytes);
  template <class T>
  void set_config_value(uint16_t offset, T value) {
    set_config(offset, std::as_bytes(std::span(&value, 1)));
  }

  std::span<std::byte> config() { return config_; }
  // The MSI-X block, null when there is none. notify() is thread-safe.
  Msix* msix() { return msix_.get(); }
  bool msix_enabled() const { return msix_ && msix_->enabled(); }
  // Drives INTA# (thread-safe): the status bit follows, and the pin unless the command register disables it.
  void set_intx(bool level);
  bool bus_master() const;  // may the function do DMA

 private:
  uint16_t config16(uint16_t offset) const;
  void update_command();
  void update_msix();
  uint64_t bar_value(unsigned bar) const;

  std::array<std::byte, kConfigSize> config_{};
  std::array<std::byte, kConfigSize> mask_{};    // bits the guest can write
  std::array<std::byte, kConfigSize> initial_{};
  std::array<Bar, kWindows> bars_;
  std::vector<std::byte> rom_;
  Pins pins_;
  PciParent* parent_ = nullptr;
  std::unique_ptr<Msix> msix_;
  unsigned msix_capability_ = 0;
  unsigned msix_bar_ = 0;
  uint32_t msix_table_offset_ = 0;
  uint32_t msix_pba_offset_ = 0;
  unsigned last_capability_ = 0;
  unsigned next_capability_ = 0x40;
  mutable std::mutex intx_mutex_;
  bool intx_level_ = false;
  bool intx_disabled_ = false;
};

}  // namespace vireo
