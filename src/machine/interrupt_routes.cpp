// SPDX-License-Identifier: Apache-2.0
#include "machine/interrupt_routes.h"

#include "machine/irq_lines.h"

namespace vireo {
namespace {

constexpr unsigned kTimer = 0, kCascade = 2, kTimerPin = 2, kPicPins = 8;

kvm_irq_routing_entry route(unsigned gsi, unsigned chip, unsigned pin) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_IRQCHIP;
  entry.u.irqchip = {chip, pin};
  return entry;
}

}  // namespace

std::vector<kvm_irq_routing_entry> pc_interrupt_routes() {
  std::vector<kvm_irq_routing_entry> routes;
  for (unsigned gsi = 0; gsi < IrqLines::kGsis; gsi++) {
    if (gsi == kCascade) continue;  // nobody's
    if (gsi < 2 * kPicPins) routes.push_back(route(gsi, gsi < kPicPins ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % kPicPins));
    routes.push_back(route(gsi, KVM_IRQCHIP_IOAPIC, gsi == kTimer ? kTimerPin : gsi));
  }
  return routes;
}

}  // namespace vireo
