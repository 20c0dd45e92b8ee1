// SPDX-License-Identifier: Apache-2.0
// One virtual machine of a hypervisor: memory slots, interrupt controllers, doorbells. Spec: api.rst.
#pragma once

#include <linux/kvm.h>

#include <memory>
#include <span>

#include "base/owned_fd.h"
#include "kvm/api.h"
#include "kvm/system.h"

namespace vireo::kvm {

class Vcpu;

// State of PIC, IOAPIC and PIT, taken after creation and put back at reset.
struct ChipState {
  kvm_irqchip chips[3] = {};
  kvm_pit_state2 pit = {};
  bool has_pit = false;
};

class Vm {
 public:
  const System& system() const { return *system_; }
  int fd() const { return handle_.fd(); }
  const Api& api() const { return handle_.api(); }
  int extension(unsigned capability) const;  // as this VM has it

  // Size 0 deletes the slot.
  Result<> set_memory(unsigned slot, uint64_t guest_address, uint64_t size, const void* host, uint32_t flags = 0);
  // The memory is mapped shared from `offset` of `fd`: a hypervisor that can make use of it may map it again. Before the vCPUs run.
  // Host memory that softkvm may put into large pages where the guest uses it; nothing with /dev/kvm, whose pages the kernel chooses.
  Result<> allow_large_pages(const void* host, uint64_t size) const;
  Result<> lend_memory(const void* host, uint64_t size, int fd, uint64_t offset) const;
  Result<> set_tss_address(uint64_t address);
  Result<> set_identity_map_address(uint64_t address);
  Result<> create_irqchip();
  Result<> create_pit();
  // All of them: what was routed before is not.
  Result<> set_interrupt_routes(std::span<const kvm_irq_routing_entry> routes);
  Result<> set_boot_cpu(unsigned id);
  Result<ChipState> chip_state() const;
  Result<> set_chip_state(const ChipState& state);

  // The PIT's channel 0 gives up its interrupt to another timer, or has it back.
  Result<> replace_pit(bool replaced) const;
  Result<> irq_line(unsigned gsi, bool level) const;
  // True when the message reached an APIC that took it.
  Result<bool> signal_msi(uint64_t address, uint32_t data) const;

  Result<> ioeventfd(int event_fd, uint64_t address, uint32_t size, bool pio, bool match, uint64_t value, bool remove) const;
  // softkvm's direct call; kUnsupported where the hypervisor has none.
  Result<> doorbell(const DirectDoorbell& doorbell, bool remove) const;
  bool has_direct_doorbells() const { return handle_.api().add_doorbell; }

  void notice_write(const void* host, size_t size) const;

  Result<std::unique_ptr<Vcpu>> create_vcpu(unsigned id);
  // As Vcpu::statistics().
  Result<OwnedFd> statistics() const;

 private:
  friend class System;
  Vm(const System& system, Handle handle) : system_(&system), handle_(std::move(handle)) {}
  const System* system_;
  Handle handle_;
};

}  // namespace vireo::kvm
