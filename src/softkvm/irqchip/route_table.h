// SPDX-License-Identifier: Apache-2.0
// Builds the table that Router looks things up in, and holds its storage. Ordinary code: ioctl callers only.
// Spec: Documentation/virt/kvm/api.rst, 4.52.
#pragma once

#include <linux/kvm.h>

#include <memory>
#include <mutex>
#include <vector>

#include "softkvm/irqchip/routing.h"

namespace vireo::softkvm {

class RouteBuilder {
 public:
  RouteBuilder(Router& router, ApicBus& bus, bool split, uint32_t reserved_pins)
      : router_(router), bus_(bus), split_(split), reserved_pins_(reserved_pins) {}
  ~RouteBuilder();

  // GSI n to pin n of the IOAPIC and, below 16, of the PICs. Split: nothing.
  void set_default();
  // 0, or -EINVAL with the old table left in force.
  int set(const kvm_irq_routing_entry* entries, uint32_t count, uint32_t flags);

 private:
  struct Storage {
    RouteTable table;
    std::vector<uint32_t> first;
    std::vector<Route> routes;
  };
  int check(const kvm_irq_routing_entry& entry, Route& route) const;

  Router& router_;
  ApicBus& bus_;
  const bool split_;
  const uint32_t reserved_pins_;
  std::mutex mutex_;
  std::unique_ptr<Storage> storage_;
};

}  // namespace vireo::softkvm
