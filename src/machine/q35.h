// SPDX-License-Identifier: Apache-2.0
// The default board: a PC with PCI Express in the manner of Intel's Q35 with its ICH9. Spec: Intel 3 Series Express Chipset Family and
// ICH9 data sheets.
#pragma once

#include <memory>
#include <mutex>
#include <optional>

#include "devices/pirq.h"
#include "machine/acpi.h"
#include "machine/board.h"
#include "machine/display_adapter.h"
#include "machine/firmware.h"
#include "machine/host_bridge.h"
#include "machine/pc_devices.h"
#include "machine/pci_root.h"
#include "machine/system_management.h"

namespace vireo {

class Q35 final : public Board {
 public:
  static constexpr uint64_t kLowMemoryLimit = 0x80000000;
  static Result<std::unique_ptr<Q35>> create(Machine& machine, CharBackend* serial);

  using Board::add;
  Result<> add(std::unique_ptr<virtio::Device> device, std::vector<std::byte> rom) override;
  void reset(ResetKind kind) override;
  Result<BootEnvironment> prepare_boot() override;
  void press_power_button() override { pc_->pm().power_button(); }
  void sleep() override { pc_->pm().sleep(); }
  GuestAddress facs() const override { return facs_; }
  const Vga* vga() const override { return display_ ? &display_->vga() : nullptr; }

 private:
  static constexpr uint64_t kEcam = 0xb0000000, kEcamSize = 0x10000000;
  // There are no bridges to other buses. What is said of more, a guest looks through: Linux reads each slot of every bus that MCFG names.
  static constexpr uint8_t kLastBus = 0;
  static constexpr uint32_t kWindow = 0xc0000000, kWindowEnd = 0xfebfffff;
  static constexpr uint16_t kIoWindow = 0xc000, kIoWindowEnd = 0xffff;
  static constexpr uint64_t kHighWindowSize = 16ull << 30;
  static constexpr unsigned kVgaSlot = 1, kLpcSlot = 31, kLinks = PirqRouter::kPirqs, kFirstPin = 16;
  // INTA# of slot n goes to PIRQ n modulo 8, on IOAPIC pin 16 and up. Modulo 4 it is what firmware for QEMU's board tells the 8259s.
  static unsigned gsi_of(unsigned slot) { return kFirstPin + slot % kLinks; }

  explicit Q35(Machine& machine) : machine_(machine) {}
  Result<> build(CharBackend* serial);
  AcpiConfig acpi() const;
  // What the bridges' registers say, for the tables: set under the bridges' locks, read under fw_cfg's by other vCPUs.
  struct Placement {
    std::optional<HostBridge::Ecam> ecam;
    uint16_t pm_base = PcDevices::kPmBase;
  };
  Placement placement() const {
    std::lock_guard lock(placement_mutex_);
    return placement_;
  }
  template <class Change>
  void place(Change change) {
    std::lock_guard lock(placement_mutex_);
    change(placement_);
  }
  aml::Bytes describe(const Placement& placement) const;
  uint64_t high_window() const;
  void assign_pci();

  Machine& machine_;
  std::unique_ptr<SystemManagement> system_management_;  // or null
  std::unique_ptr<PcDevices> pc_;
  std::unique_ptr<Firmware> firmware_;  // or null: the board is set up for a kernel
  std::unique_ptr<PirqRouter> pirqs_;
  mutable std::mutex placement_mutex_;  // taken last
  Placement placement_;
  std::unique_ptr<DisplayAdapter> display_;  // or null: there is no screen
  std::unique_ptr<PciRoot> pci_;
  GuestAddress facs_{};
};

}  // namespace vireo
