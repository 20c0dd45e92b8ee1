// SPDX-License-Identifier: Apache-2.0
// Parts of the KVM ABI that came after the oldest <linux/kvm.h> this builds with (Linux 6.1). Numbers and layouts are those of the
// kernel's public header and Documentation/virt/kvm/api.rst.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

// See base/linux_headers/linux/stddef.h.
static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_msr_list) == 4 && sizeof(kvm_signal_mask) == 4 &&
              sizeof(kvm_irq_routing) == 8 && sizeof(kvm_xsave) == 4096 && sizeof(kvm_coalesced_mmio_ring) == 8);

#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231
#define KVM_MEM_GUEST_MEMFD (1UL << 2)
struct kvm_userspace_memory_region2 {
  __u32 slot;
  __u32 flags;
  __u64 guest_phys_addr;
  __u64 memory_size;
  __u64 userspace_addr;
  __u64 guest_memfd_offset;
  __u32 guest_memfd;
  __u32 pad1;
  __u64 pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif

#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES 235
#endif
