// SPDX-License-Identifier: Apache-2.0
// A VM's interrupt controllers together: what KVM_CREATE_IRQCHIP (or KVM_CAP_SPLIT_IRQCHIP) creates, and a call for each ioctl
// about them. Functions that return int give 0 or more, or -errno, as the ioctl. All may be called from any thread; the parts
// that guest instructions reach (set_irq, pio, mmio, and the Lapic) are FAST code.
//
// How the engine uses it: one Lapic per vCPU by create_lapic(), with a VcpuSignal of its own. When kicked, or after a guest
// instruction that may let interrupts through, it asks lapic.has_interrupt() and takes lapic.acknowledge(). Device memory accesses and
// ports go to the Lapic's mmio_*, to mmio() and pio() here, then to Ioeventfds, then to user space.
#pragma once

#include <linux/kvm.h>

#include <memory>

#include "base/result.h"
#include "softkvm/irqchip/ioapic.h"
#include "softkvm/irqchip/irqfd.h"
#include "softkvm/irqchip/lapic.h"
#include "softkvm/irqchip/pic.h"
#include "softkvm/irqchip/pit.h"
#include "softkvm/irqchip/routing.h"

namespace vireo::softkvm {

// CLOCK_MONOTONIC without libc.
const MonotonicClock& host_clock();
class RouteBuilder;

class Irqchip {
 public:
  struct Config {
    bool split = false;          // local APICs only: IOAPIC and PIC are the caller's
    uint32_t reserved_pins = 0;  // split: GSIs below this are the caller's IOAPIC pins
    const MonotonicClock* clock = nullptr;  // null: the host's
    bool event_thread = true;    // off in tests that call run_timers() themselves
  };
  static Result<std::unique_ptr<Irqchip>> create(const Config& config);
  ~Irqchip();

  bool split() const { return config_.split; }

  // --- vCPUs: one for each, for the VM's life. Null if the id is taken or out of range.
  std::unique_ptr<Lapic> create_lapic(uint32_t id, bool bsp, VcpuSignal& signal);
  void destroy_lapic(std::unique_ptr<Lapic> lapic);  // when no vCPU runs any more
  ApicBus& bus() { return bus_; }

  // --- KVM_IRQ_LINE and KVM_IRQ_LINE_STATUS (whose status this returns), KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING, KVM_CAP_X2APIC_API
  int set_irq(uint32_t gsi, bool level) { return router_.set_irq(IrqSource::kUser, gsi, level, true); }
  int signal_msi(const kvm_msi& msi);
  int set_gsi_routing(const kvm_irq_routing& header, const kvm_irq_routing_entry* entries);
  int enable_x2apic_api(uint64_t flags);

  // --- KVM_GET_IRQCHIP, KVM_SET_IRQCHIP
  int get_irqchip(kvm_irqchip& chip);
  int set_irqchip(const kvm_irqchip& chip);

  // --- KVM_CREATE_PIT2, KVM_GET_PIT2, KVM_SET_PIT2 (the older PIT ioctls are these with flags 0), KVM_REINJECT_CONTROL
  int create_pit(uint32_t flags);
  int get_pit2(kvm_pit_state2& state);
  int set_pit2(const kvm_pit_state2& state);
  int reinject_control(const kvm_reinject_control& control);

  // --- KVM_IRQFD
  int irqfd(const kvm_irqfd& request);

  // --- guest accesses to PIC, ELCR, PIT, speaker port; to the IOAPIC. False: not ours.
  bool pio(uint16_t port, unsigned size, bool write, uint32_t& value);
  bool mmio(uint64_t address, unsigned size, bool write, uint64_t& value);
  // Split irqchip: the user-space IOAPIC or MSI emulation has ended a vector... is told by VcpuSignal::request_ioapic_eoi().

  uint64_t run_timers() { return timers_.run_expired(); }  // without an event thread: what it would do now
  Router& router() { return router_; }

 private:
  explicit Irqchip(const Config& config, int timer_fd);

  const Config config_;
  const int timer_fd_;
  ApicBus bus_;
  TimerQueue timers_;
  ResampleTable resamplers_;
  Router router_;
  std::unique_ptr<Pic> pic_;
  std::unique_ptr<Ioapic> ioapic_;
  std::atomic<Pit*> pit_{nullptr};
  std::unique_ptr<Pit> owned_pit_;
  std::unique_ptr<Irqfds> irqfds_;
  std::unique_ptr<RouteBuilder> routes_;
};

}  // namespace vireo::softkvm
