# SPDX-License-Identifier: Apache-2.0
# What a machine can do at CPL 0: each probe gives 0 where it can.
        .include "guest.inc"
        group probe_sse0, PRIVILEGED | PROBE | NEEDS_SSE0
        pxor xmm0, xmm0
        movd eax, xmm0
        fld1
        fstp qword ptr [r12]
        expect rax, 0
        end_group
        group probe_syscall, PRIVILEGED | PROBE | NEEDS_SYSCALL
        lea rax, [rip + 1f]
        mov rdx, rax
        shr rdx, 32
        mov ecx, 0xc0000082
        wrmsr
        mov ecx, 0xc0000081
        xor eax, eax
        mov edx, 0x00180008
        wrmsr
        lea rcx, [rip + 2f]
        mov r11d, 2
        mov rbx, rsp
        sysretq
2:      syscall
1:      mov rsp, rbx
        mov eax, cs
        expect rax, CODE0
        end_group
        group probe_int, PRIVILEGED | PROBE | NEEDS_INT
        traps 0x40, 0, int 0x40
        end_group
        group probe_lar, PRIVILEGED | PROBE | NEEDS_LAR
        mov eax, DATA0
        verr ax
        expect_flags ZF, ZF
        end_group
        .section .note.GNU-stack, "", @progbits
