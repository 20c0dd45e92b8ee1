// SPDX-License-Identifier: Apache-2.0
// Which system calls a stub process may do, as seccomp filters (docs/native.md). Spec: seccomp(2); the kernel's
// Documentation/userspace-api/seccomp_filter.rst and admin-guide/syscall-user-dispatch.rst.
#pragma once

#include <linux/filter.h>

#include <vector>

namespace vireo::softkvm {

// For the listener: the monitor is told of the stub's stops. It allows all else, for it is installed before the program of the stub runs.
std::vector<sock_filter> stop_filter();
// All that the stub may do beside: by the address of the SYSCALL, the calls on the list, and closing the list again.
std::vector<sock_filter> stub_filter();

}  // namespace vireo::softkvm
