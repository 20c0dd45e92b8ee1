// SPDX-License-Identifier: Apache-2.0
// Firmware on a board: its flash, the shadow memory below 1 MiB, and the device through which it asks what machine it is on.
#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "devices/debug_console.h"
#include "devices/fw_cfg.h"
#include "machine/acpi.h"
#include "machine/file_view.h"
#include "machine/flash.h"
#include "machine/shadow_memory.h"

namespace vireo {

class Machine;

struct FirmwareConfig {
  std::string code;       // file of the image, for the end of the first 4 GiB
  std::string variables;  // file of a writable flash below it; empty: none
  std::string debug;      // file for what it writes to port 0x402; empty: there is no such port
  bool serial_console = true;  // SeaBIOS shows its screen on the first serial port
  bool boot_menu = false;
  bool secure = false;  // with system management mode, from which alone the variables are written
};

class Firmware {
 public:
  // `tables` makes the ACPI tables as they are when the firmware asks, with the devices where it has put them.
  static Result<std::unique_ptr<Firmware>> create(Machine& machine, const FirmwareConfig& config, std::function<AcpiConfig()> tables);
  ~Firmware();

  ShadowMemory& shadow() { return *shadow_; }
  FwCfg& items() { return *items_; }
  // Before each boot; at the first the file of `debug` is emptied. Another option may be wrong before, and what the last machine said is not lost for that.
  Result<> begin();
  void reset(ResetKind kind);

 private:
  explicit Firmware(Machine& machine) : machine_(machine) {}
  Result<> build(const FirmwareConfig& config);
  void describe(const FirmwareConfig& config);
  void describe_tables();
  Result<> describe_kernel();

  Machine& machine_;
  FileView kernel_, initrd_;  // what firmware starts instead of a disk
  std::function<AcpiConfig()> tables_;
  std::unique_ptr<Flash> flash_;
  std::unique_ptr<ShadowMemory> shadow_;
  std::unique_ptr<FwCfg> items_;
  std::unique_ptr<DebugConsole> console_;
  FILE* debug_ = nullptr;
  bool begun_ = false;
};

}  // namespace vireo
