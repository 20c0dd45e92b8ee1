// SPDX-License-Identifier: Apache-2.0
// System management mode as a board with firmware has it: a second address space for the processors that are in it, memory that only they see (and
// no device), and the interrupt that brings them there. The hypervisor has both address spaces; what differs between them is set here.
// Spec: Intel SDM vol 3, 31; Intel 3 Series Express Chipset Family data sheet, SMRAM and ESMRAMC; Linux's api.rst, KVM_CAP_MULTI_ADDRESS_SPACE. How firmware
// asks for interrupts of all processors is QEMU's (docs/specs/fw_cfg; the files etc/smi/...).
#pragma once

#include <atomic>
#include <memory>

#include "base/result.h"
#include "devices/fw_cfg.h"
#include "machine/host_bridge.h"

namespace vireo {

class GuestMemory;
class Machine;
struct MachineConfig;
namespace kvm {
class Vm;
}

class SystemManagement {
 public:
  // Can a machine have it? The error names the option.
  static Result<> check(const MachineConfig& config, const GuestMemory& memory, const kvm::Vm& vm);
  // Memory is in place; no vCPU runs yet.
  static Result<std::unique_ptr<SystemManagement>> create(Machine& machine);

  // As the host bridge's registers say; any thread.
  void set(const HostBridge::Smram& smram);
  // A command was written that is to interrupt: the writer, or all processors where firmware has asked for that. On a vCPU's thread.
  void interrupt();
  // The files by which firmware asks.
  void describe(FwCfg& items);
  void reset();

 private:
  explicit SystemManagement(Machine& machine) : machine_(machine) {}
  Result<> map_second_space();
  Result<> show(unsigned slot, bool shown);
  void negotiate();

  Machine& machine_;
  FwCfg* items_ = nullptr;
  unsigned open_slot_ = 0, closed_slot_ = 0;  // of the RAM behind video memory, in the first and in the second address space
  HostBridge::Smram now_;
  std::atomic<bool> all_ = false;  // an interrupt is for all processors
};

}  // namespace vireo
