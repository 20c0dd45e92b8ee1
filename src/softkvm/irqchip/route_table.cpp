// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/route_table.h"

#include <algorithm>
#include <cerrno>

namespace vireo::softkvm {

RouteBuilder::~RouteBuilder() { router_.table().replace(nullptr); }

void RouteBuilder::set_default() {
  std::vector<kvm_irq_routing_entry> entries;
  for (uint32_t gsi = 0; !split_ && gsi < KVM_IOAPIC_NUM_PINS; ++gsi) {
    kvm_irq_routing_entry entry{};
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip = {KVM_IRQCHIP_IOAPIC, gsi};
    entries.push_back(entry);
    if (gsi >= 16) continue;
    entry.u.irqchip = {gsi < 8 ? uint32_t{KVM_IRQCHIP_PIC_MASTER} : uint32_t{KVM_IRQCHIP_PIC_SLAVE}, gsi % 8};
    entries.push_back(entry);
  }
  set(entries.data(), static_cast<uint32_t>(entries.size()), 0);
}

int RouteBuilder::check(const kvm_irq_routing_entry& entry, Route& route) const {
  if (entry.gsi >= Router::kMaxGsis) return -EINVAL;
  route = {entry.type, 0, 0, 0, 0, 0};
  switch (entry.type) {
    case KVM_IRQ_ROUTING_IRQCHIP:
      if (entry.flags != 0 || split_) return -EINVAL;
      route.chip = entry.u.irqchip.irqchip;
      route.pin = entry.u.irqchip.pin;
      if (route.chip == KVM_IRQCHIP_IOAPIC) return route.pin < KVM_IOAPIC_NUM_PINS ? 0 : -EINVAL;
      if (route.chip > KVM_IRQCHIP_PIC_SLAVE || route.pin >= 8) return -EINVAL;
      if (route.chip == KVM_IRQCHIP_PIC_SLAVE) route.pin += 8;
      return 0;
    case KVM_IRQ_ROUTING_MSI:
      if (entry.flags & ~uint32_t{KVM_MSI_VALID_DEVID}) return -EINVAL;
      route.address_lo = entry.u.msi.address_lo;
      route.address_hi = entry.u.msi.address_hi;
      route.data = entry.u.msi.data;
      return bus_.ids_are_32bit.load() && (route.address_hi & 0xff) ? -EINVAL : 0;
    default: return -EINVAL;
  }
}

int RouteBuilder::set(const kvm_irq_routing_entry* entries, uint32_t count, uint32_t flags) {
  if (flags != 0 || count > Router::kMaxGsis) return -EINVAL;
  auto storage = std::make_unique<Storage>();
  std::vector<std::pair<uint32_t, Route>> routes(count);
  uint32_t gsi_count = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (int error = check(entries[i], routes[i].second); error != 0) return error;
    routes[i].first = entries[i].gsi;
    gsi_count = std::max(gsi_count, entries[i].gsi + 1);
  }
  std::stable_sort(routes.begin(), routes.end(), [](const auto& a, const auto& b) { return a.first < b.first; });

  RouteTable& table = storage->table;
  for (auto& chip : table.gsi_of_pin) std::fill(std::begin(chip), std::end(chip), -1);
  storage->first.resize(gsi_count + 1);
  for (uint32_t i = 0; i < count; ++i) {
    const auto& [gsi, route] = routes[i];
    // A GSI may go to one pin of each chip, or to one message.
    for (uint32_t j = i; j > 0 && routes[j - 1].first == gsi; --j) {
      const Route& other = routes[j - 1].second;
      if (other.type != KVM_IRQ_ROUTING_IRQCHIP || route.type != KVM_IRQ_ROUTING_IRQCHIP || other.chip == route.chip)
        return -EINVAL;
    }
    ++storage->first[gsi + 1];
    if (route.type == KVM_IRQ_ROUTING_IRQCHIP) {
      table.gsi_of_pin[route.chip][route.pin] = static_cast<int32_t>(gsi);
    } else if (gsi < reserved_pins_) {
      const uint8_t vector = static_cast<uint8_t>(route.data);
      if (route.data >> 15 & 1) table.level_vectors[vector >> 6] |= 1ull << (vector & 63);
    }
    storage->routes.push_back(route);
  }
  for (uint32_t gsi = 0; gsi < gsi_count; ++gsi) storage->first[gsi + 1] += storage->first[gsi];
  table.gsi_count = gsi_count;
  table.first = storage->first.data();
  table.routes = storage->routes.data();

  std::lock_guard guard(mutex_);
  router_.table().replace(&table);
  storage_ = std::move(storage);
  return 0;
}

}  // namespace vireo::softkvm
