# SPDX-License-Identifier: Apache-2.0
# Control and debug registers, CLTS, SMSW, LMSW, INVLPG, WBINVD, CLI, STI. Spec: Intel SDM vol 3, 2.5; vol 2 for each.
        .include "guest.inc"
        group control, PRIVILEGED
        mov rax, cr0
        and eax, 0x80000001
        expect rax, 0x80000001
        mov rbx, cr0
        mov rax, rbx
        or rax, 8                       # TS
        mov cr0, rax
        smsw rcx
        and ecx, 8
        expect rcx, 8
        clts
        mov rcx, cr0
        and ecx, 8
        expect rcx, 0
        mov eax, ebx
        or eax, 8
        lmsw ax
        mov rcx, cr0
        and ecx, 9
        expect rcx, 9
        mov eax, 0
        lmsw ax                         # it cannot clear PE, but TS
        mov rcx, cr0
        and ecx, 9
        expect rcx, 1
        mov cr0, rbx
        mov rax, 0x123456789abcdef
        mov cr2, rax
        mov rcx, cr2
        expect rcx, 0x123456789abcdef
        mov rax, cr3
        mov cr3, rax
        mov rcx, cr3
        sub rcx, rax
        expect rcx, 0
        mov rbx, cr4
        mov rax, rbx
        xor rax, 0x80                   # PGE
        mov cr4, rax
        mov rcx, cr4
        xor rcx, rbx
        expect rcx, 0x80
        mov cr4, rbx
        mov eax, 5
        mov cr8, rax
        mov rcx, cr8
        expect rcx, 5
        xor eax, eax
        mov cr8, rax
        mov rax, 0x1234
        mov dr0, rax
        mov dr3, rax
        mov rcx, dr0
        expect rcx, 0x1234
        mov rcx, dr3
        expect rcx, 0x1234
        invlpg [r12]
        wbinvd
        cli
        expect_flags 0x200, 0
        sti
        expect_flags 0x200, 0x200
        cli
        # What is not allowed: paging without protection, no PAE in long mode, more than four bits in CR8.
        mov rbx, cr0
        and rbx, ~1
        traps 13, 0, mov cr0, rbx
        mov rbx, cr4
        and rbx, ~0x20
        traps 13, 0, mov cr4, rbx
        mov ebx, 16
        traps 13, 0, mov cr8, rbx
        end_group
        .section .note.GNU-stack, "", @progbits
