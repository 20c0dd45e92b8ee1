// SPDX-License-Identifier: Apache-2.0
// The ioctls of a VM. Results are >= 0 or -errno. Spec: Documentation/virt/kvm/api.rst, section 4.
#pragma once

#include <cstdint>
#include <memory>

#include "softkvm/abi/vm_file.h"

namespace vireo::softkvm::abi {

int vm_ioctl(const std::shared_ptr<VmFile>& vm, unsigned long request, uintptr_t argument);

// memory.cpp
int set_user_memory_region(VmFile& vm, uintptr_t argument);
int set_user_memory_region2(VmFile& vm, uintptr_t argument);
int get_dirty_log(VmFile& vm, uintptr_t argument);
int clear_dirty_log(VmFile& vm, uintptr_t argument);
int enable_dirty_ring(VmFile& vm, uint64_t bytes);
int reset_dirty_rings(VmFile& vm);
int enable_manual_dirty_log(VmFile& vm, uint64_t flags);

// irqchip.cpp
int create_irqchip(VmFile& vm);
int enable_split_irqchip(VmFile& vm, uint64_t reserved_pins);
int get_irqchip(VmFile& vm, uintptr_t argument);
int set_irqchip(VmFile& vm, uintptr_t argument);
int create_pit2(VmFile& vm, uintptr_t argument);
int create_pit(VmFile& vm);
int get_pit(VmFile& vm, uintptr_t argument);
int set_pit(VmFile& vm, uintptr_t argument);
int get_pit2(VmFile& vm, uintptr_t argument);
int set_pit2(VmFile& vm, uintptr_t argument);
int reinject_control(VmFile& vm, uintptr_t argument);
int irq_line(VmFile& vm, uintptr_t argument, bool with_status);
int set_gsi_routing(VmFile& vm, uintptr_t argument);
int signal_msi(VmFile& vm, uintptr_t argument);
int irqfd(VmFile& vm, uintptr_t argument);
int ioeventfd(VmFile& vm, uintptr_t argument);
int enable_x2apic_api(VmFile& vm, uint64_t flags);

// vm_caps.cpp
int enable_cap(VmFile& vm, uintptr_t argument);
int set_msr_filter(VmFile& vm, uintptr_t argument);

// stats.cpp
int create_statistics(VmFile& vm);  // once, before anything counts: 0 or -errno
int get_stats_fd(VmFile& vm);

}  // namespace vireo::softkvm::abi
