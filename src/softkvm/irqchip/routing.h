// SPDX-License-Identifier: Apache-2.0
// From GSIs to pins and messages, and back from an acknowledged pin to those who want to hear of it (the PIT's reinjection,
// resampled irqfds). Looking up is FAST code and takes no lock; the table is replaced as a whole (KVM_SET_GSI_ROUTING).
// Spec: Documentation/virt/kvm/api.rst, 4.52; Intel SDM vol 3, 11.11 for MSIs.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

#include "softkvm/irqchip/apic_bus.h"
#include "softkvm/irqchip/read_section.h"
#include "softkvm/irqchip/resample.h"

namespace vireo::softkvm {

class Pit;

// Who drives a pin: a pin is high while any of its sources holds it.
enum class IrqSource : uint8_t { kUser = 0, kResample = 1, kPit = 2 };

struct Route {
  uint32_t type;  // KVM_IRQ_ROUTING_IRQCHIP, _MSI
  uint32_t chip, pin;
  uint32_t address_lo, address_hi, data;
};

// Immutable. Built by route_table.cpp.
struct RouteTable {
  uint32_t gsi_count = 0;
  uint32_t* first = nullptr;  // gsi_count + 1 indices into routes
  Route* routes = nullptr;
  int32_t gsi_of_pin[KVM_NR_IRQCHIPS][KVM_IOAPIC_NUM_PINS];  // PIC pins counted 0-15 over both chips; -1: none
  uint64_t level_vectors[4] = {};  // split irqchip: vectors of level-triggered MSI routes of the reserved GSIs
};

ApicMessage decode_msi(uint32_t address_lo, uint32_t address_hi, uint32_t data, bool extended_id);

class Router {
 public:
  static constexpr unsigned kMaxGsis = 4096;  // KVM_CAP_IRQ_ROUTING

  Router(ApicBus& bus, ResampleTable& resamplers) : bus_(bus), resamplers_(resamplers) {}

  // The number of CPUs or pins reached, 0 if merged with a pending one, -1 if masked or not routed: KVM_IRQ_LINE_STATUS.
  int set_irq(IrqSource source, uint32_t gsi, bool level, bool line_status = false);
  // As KVM_SIGNAL_MSI.
  int send_msi(uint32_t address_lo, uint32_t address_hi, uint32_t data);

  // PIC and IOAPIC report here, never under a lock of theirs.
  void acked(unsigned chip, unsigned pin);
  // A level pin with a pending interrupt was unmasked: true if the pin has been lowered and its devices asked to raise it again.
  bool resample(unsigned chip, unsigned pin);
  void mask_changed(unsigned chip, unsigned pin, bool masked);
  bool is_level_vector(uint8_t vector);

  Published<RouteTable>& table() { return table_; }
  void set_pit(Pit* pit) { pit_.store(pit); }

 private:
  int gsi_of(unsigned chip, unsigned pin);

  ApicBus& bus_;
  ResampleTable& resamplers_;
  std::atomic<Pit*> pit_{nullptr};
  Published<RouteTable> table_;
};

}  // namespace vireo::softkvm
