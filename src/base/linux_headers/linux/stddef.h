// SPDX-License-Identifier: Apache-2.0
// Stands before the kernel's own <linux/stddef.h>, whose flexible arrays come with an empty struct: that has one byte in C++ and none in C,
// so that structs and ioctl numbers of <linux/kvm.h> would differ from the kernel's.
#pragma once

#pragma GCC system_header
#include_next <linux/stddef.h>

#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[]
