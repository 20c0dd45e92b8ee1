// SPDX-License-Identifier: Apache-2.0
// Pages of the host's for memory of ours that is about to be used: by one call, where a fault for each takes two to ten times as long. FAST.
#pragma once

#include <sys/mman.h>

#include <cstddef>

#include "softkvm/irqchip/raw_syscall.h"

namespace vireo::softkvm {

// `begin`: a multiple of the page's size. Where the host refuses, they come by faults.
inline void get_pages(const void* begin, size_t size) {
  raw_syscall(SYS_madvise, reinterpret_cast<long>(begin), static_cast<long>(size), MADV_POPULATE_WRITE);
}
inline void get_pages_to_read(const void* begin, size_t size) {
  raw_syscall(SYS_madvise, reinterpret_cast<long>(begin), static_cast<long>(size), MADV_POPULATE_READ);
}

}  // namespace vireo::softkvm
