// SPDX-License-Identifier: Apache-2.0
// Where a stub process keeps what is not the guest's: below any address that a guest's kernel gives its programs (Linux's mmap_min_addr is
// 64 KiB, programs start at 4 MiB). Shared by the assembly and C++.
#pragma once

#define STUB_CODE 0x10000      /* one page: stub_code.S, read and execute */
#define STUB_LIST 0x11000      /* system calls to do, read only; written by the monitor through its own mapping */
#define STUB_LIST_SIZE 0x10000
#define STUB_END (STUB_LIST + STUB_LIST_SIZE)
#define STUB_CALL_SIZE 56      /* number, six arguments: 8 bytes each; a number of -1 ends the list */
