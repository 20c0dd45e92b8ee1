// SPDX-License-Identifier: Apache-2.0
// Stands before the system's <linux/stddef.h>. In the headers of Linux 6.1 a flexible array in a struct comes with an empty struct, which in
// C++ has size 1: kvm_cpuid2, kvm_msrs, kvm_signal_mask, kvm_coalesced_mmio_ring ... then have other sizes than the kernel's, and so have the
// ioctl numbers made from them. Later headers declare an array of no elements for C++; so do we.
#pragma GCC system_header
#include_next <linux/stddef.h>

#ifdef __cplusplus
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]
#endif
