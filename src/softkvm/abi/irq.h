// SPDX-License-Identifier: Apache-2.0
// A vCPU's local APIC as its other ioctls see it; without one (no in-kernel irqchip) APIC base and CR8 are plain values of the vCPU.
#pragma once

#include <cstdint>

#include "softkvm/abi/vcpu_file.h"

namespace vireo::softkvm::abi {

uint64_t task_priority(VcpuFile& file);  // CR8
void set_task_priority(VcpuFile& file, uint64_t value);
uint64_t apic_base(VcpuFile& file);
bool set_apic_base(VcpuFile& file, uint64_t value);  // false: not a value that the APIC can have
// KVM_INTERRUPT with a split irqchip. 0, or -EEXIST while one waits.
int set_external_vector(VcpuFile& file, uint8_t vector);
// kvm_run's ready_for_interrupt_injection.
bool ready_for_interrupt(VcpuFile& file);
// What the APIC offers follows CPUID.
void update_lapic_features(VcpuFile& file);

}  // namespace vireo::softkvm::abi
