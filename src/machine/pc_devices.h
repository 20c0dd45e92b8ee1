// SPDX-License-Identifier: Apache-2.0
// What every PC board has: serial port, clock, keyboard controller, ACPI power management, reset register, and on request the high precision
// event timer and the devices of test kernels.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "devices/acpi_pm.h"
#include "devices/char_backend.h"
#include "devices/hpet.h"
#include "devices/i8042.h"
#include "devices/reset_control.h"
#include "devices/rtc.h"
#include "devices/uart.h"
#include "machine/aml.h"
#include "machine/boot.h"
#include "machine/gated_line.h"

namespace vireo {

class Machine;

struct PcOptions {
  bool suspend = false;            // to RAM
  std::function<void()> smi = {};  // the system management interrupt that software asks for; absent: there is no such mode
};

class PcDevices {
 public:
  static constexpr uint16_t kPmBase = 0x600;
  static constexpr unsigned kSci = 9;
  // Tables for a direct boot lie in the BIOS area, where a scan for RSDP and SMBIOS looks.
  static constexpr uint64_t kTables = 0xe0000, kTablesEnd = 0x100000;

  static Result<std::unique_ptr<PcDevices>> create(Machine& machine, CharBackend* serial, PcOptions options = {});
  void reset(ResetKind kind);
  AcpiPm& pm() { return *pm_; }
  // Where power management's ports are; absent: nowhere.
  void map_pm(std::optional<uint16_t> base);
  ResetControl& reset_control() { return *reset_control_; }
  // The AML of these devices, for inside \_SB, and the sleep states for the root.
  static aml::Bytes describe(uint16_t pm_base = kPmBase);
  static aml::Bytes sleep_states(bool suspend = false);
  // RAM with the legacy hole cut out of it.
  static std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory);

 private:
  PcDevices(Machine& machine, PcOptions options) : machine_(machine), options_(std::move(options)) {}
  Result<> build(CharBackend* serial);
  Result<> build_hpet();
  Result<> build_test_devices();

  Machine& machine_;
  PcOptions options_;
  std::unique_ptr<Uart> uart_;
  std::unique_ptr<GatedLine> rtc_line_;
  std::unique_ptr<Rtc> rtc_;
  std::unique_ptr<I8042> i8042_;
  std::unique_ptr<AcpiPm> pm_;
  std::unique_ptr<ResetControl> reset_control_;
  std::unique_ptr<Hpet> hpet_;  // or null
  std::optional<uint16_t> pm_at_;
  std::vector<std::unique_ptr<Device>> others_;
};

}  // namespace vireo
