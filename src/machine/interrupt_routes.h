// SPDX-License-Identifier: Apache-2.0
// Where a PC's GSIs lead: GSI 0 is the timer's, on the IOAPIC's pin 2, where the 8259s' cascade has no use for it. What the ACPI tables
// (acpi.cpp) and firmware (FwCfg::kIrq0Override) are told. Spec: MultiProcessor Specification 1.4, 3.6.2.2; api.rst, 4.52.
#pragma once

#include <linux/kvm.h>

#include <vector>

namespace vireo {

std::vector<kvm_irq_routing_entry> pc_interrupt_routes();

}  // namespace vireo
