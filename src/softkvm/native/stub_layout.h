// SPDX-License-Identifier: Apache-2.0
// Where a stub process keeps what is not the guest's: below any address that a guest's kernel gives its programs (Linux's mmap_min_addr is
// 64 KiB, programs start at 4 MiB). Shared by the assembly and C++.
#pragma once

#define STUB_CODE 0x10000        /* one page: stub_code.S, read and execute */
#define STUB_LIST 0x11000        /* system calls to do, read only as what follows; written by the monitor through its own mapping */
#define STUB_LIST_SIZE 0x10000
#define STUB_CALL_SIZE 56        /* number, six arguments: 8 bytes each; a number of -1 ends the list */
#define STUB_CONTROL (STUB_LIST + 0xdc00)
#define STUB_HOLD STUB_CONTROL              /* 8 bytes: not 0: when the list is done, stop again */
#define STUB_BASES (STUB_CONTROL + 8)       /* 8 bytes: not 0: the host lets user code use RDFSBASE and its kin */
#define STUB_REGISTERS (STUB_LIST + 0xdc40) /* the guest's, 8 bytes each: r15 to r8, rdi, rsi, rbp, rbx, rdx, rcx, rax, rsp, rip, rflags, FS's base, GS's */
#define STUB_SETUP (STUB_LIST + 0xdd00)     /* what the first list's calls point at */
#define STUB_XSAVE (STUB_LIST + 0xe000)     /* the guest's SIMD and x87 state, in the XSAVE standard format */
#define STUB_XSAVE_SIZE 0x2000
#define STUB_STACK (STUB_LIST + STUB_LIST_SIZE) /* of signal handlers, read and write: of what is here nothing is believed */
#define STUB_SEEN STUB_STACK                /* 8 bytes each: bases of FS and GS; selectors in DS, ES, FS, GS */
#define STUB_SEEN_SIZE 64
#define STUB_STACK_SIZE 0x10000
#define STUB_END (STUB_STACK + STUB_STACK_SIZE)
#define STUB_FILE 916            /* descriptor of the file with all that but the code */
