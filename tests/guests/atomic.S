# SPDX-License-Identifier: Apache-2.0
# XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B and LOCK.
        .include "guest.inc"
        group atomic, 0
        mov qword ptr [r12], 5
        mov eax, 7
        xchg [r12], rax
        expect rax, 5
        lock xadd [r12], rax
        expect rax, 7
        mov rbx, [r12]
        expect rbx, 12
        mov eax, 12
        mov ecx, 99
        lock cmpxchg [r12], rcx
        expect_flags ZF, ZF
        mov eax, 1
        lock cmpxchg [r12], rcx
        expect rax, 99
        mov dword ptr [r12 + 4], 1
        mov eax, 99
        mov edx, 1
        mov ebx, 3
        mov ecx, 4
        lock cmpxchg8b [r12]
        mov rbx, [r12]
        expect rbx, 0x400000003
        mov rax, rbx
        mov qword ptr [r12 + 8], 6
        mov edx, 6
        mov ebx, 1
        mov ecx, 2
        lock cmpxchg16b [r12]
        expect_flags ZF, ZF
        mov rax, [r12 + 8]
        expect rax, 2
        end_group
        .section .note.GNU-stack, "", @progbits
