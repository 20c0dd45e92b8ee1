// SPDX-License-Identifier: Apache-2.0
// System calls without libc: FAST code (guest SIMD state live in the host's registers) may signal an eventfd or arm a timer.
// Spec: System V ABI, AMD64 supplement, A.2.1.
#pragma once

#include <sys/syscall.h>

#include <cstdint>

namespace vireo::softkvm {

// The kernel's result: a value, or -errno.
inline long raw_syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0) {
  long result;
  register long r10 asm("r10") = d;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
               : "rcx", "r11", "memory");
  return result;
}

// Adds one to an eventfd's count.
inline void signal_eventfd(int fd) {
  const uint64_t one = 1;
  raw_syscall(SYS_write, fd, reinterpret_cast<long>(&one), sizeof one);
}

}  // namespace vireo::softkvm
