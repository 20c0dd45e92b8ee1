// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/routing.h"

#include <cerrno>

#include "softkvm/irqchip/ioapic.h"
#include "softkvm/irqchip/pic.h"
#include "softkvm/irqchip/pit.h"

namespace vireo::softkvm {

ApicMessage decode_msi(uint32_t address_lo, uint32_t address_hi, uint32_t data, bool extended_id) {
  ApicMessage message;
  message.destination = address_lo >> 12 & 0xff;
  // With KVM_X2APIC_API_USE_32BIT_IDS the upper address holds bits 31-8 of the destination.
  if (extended_id) message.destination |= address_hi & 0xffffff00;
  message.redirection_hint = address_lo >> 3 & 1;
  message.logical = address_lo >> 2 & 1;
  message.vector = static_cast<uint8_t>(data);
  message.mode = static_cast<DeliveryMode>(data >> 8 & 7);
  message.level_triggered = data >> 15 & 1;
  message.assert_level = true;  // KVM signals a level message only when it asserts, whatever bit 14 says
  return message;
}

int Router::send_msi(uint32_t address_lo, uint32_t address_hi, uint32_t data) {
  const bool extended = bus_.ids_are_32bit.load(std::memory_order_relaxed);
  if (extended && (address_hi & 0xff)) return -EINVAL;
  return bus_.deliver(decode_msi(address_lo, address_hi, data, extended), nullptr);
}

int Router::set_irq(IrqSource source, uint32_t gsi, bool level, bool line_status) {
  Published<RouteTable>::Reader table(table_);
  if (!table || gsi >= table->gsi_count) return -1;
  int result = -1;
  for (uint32_t i = table->first[gsi]; i < table->first[gsi + 1]; ++i) {
    const Route& route = table->routes[i];
    int one = -1;
    if (route.type == KVM_IRQ_ROUTING_MSI) {
      if (level) one = send_msi(route.address_lo, route.address_hi, route.data);
    } else if (route.chip == KVM_IRQCHIP_IOAPIC) {
      if (bus_.ioapic != nullptr) one = bus_.ioapic->set_irq(route.pin, source, level, line_status);
    } else if (bus_.pic != nullptr) {
      one = bus_.pic->set_irq(route.pin, source, level);
    }
    if (one >= 0) result = one + (result < 0 ? 0 : result);
  }
  return result;
}

int Router::gsi_of(unsigned chip, unsigned pin) {
  Published<RouteTable>::Reader table(table_);
  return table ? table->gsi_of_pin[chip][pin] : -1;
}

bool Router::is_level_vector(uint8_t vector) {
  Published<RouteTable>::Reader table(table_);
  return table && (table->level_vectors[vector >> 6] >> (vector & 63) & 1);
}

void Router::acked(unsigned chip, unsigned pin) {
  const int gsi = gsi_of(chip, pin);
  if (gsi < 0) return;
  if (Pit* pit = gsi == 0 ? pit_.load() : nullptr) pit->acked();
  if (resamplers_.has(gsi)) {
    set_irq(IrqSource::kResample, gsi, false);
    resamplers_.signal(gsi);
  }
}

bool Router::resample(unsigned chip, unsigned pin) {
  const int gsi = gsi_of(chip, pin);
  if (gsi < 0 || !resamplers_.has(gsi)) return false;
  set_irq(IrqSource::kResample, gsi, false);
  resamplers_.signal(gsi);
  return true;
}

void Router::mask_changed(unsigned chip, unsigned pin, bool masked) {
  if (gsi_of(chip, pin) != 0) return;
  if (Pit* pit = pit_.load()) pit->mask_changed(masked);
}

}  // namespace vireo::softkvm
