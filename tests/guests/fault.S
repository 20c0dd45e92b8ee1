# SPDX-License-Identifier: Apache-2.0
# Exceptions with their error codes, CR2 and the place that they return to. Spec: Intel SDM vol 3, 6.15.
        .include "guest.inc"
        group fault, PRIVILEGED
        mov ebx, NOT_PRESENT + 0x123
        traps 14, 0, mov rax, [rbx]
        mov rax, [TRAP_CR2]
        expect rax, NOT_PRESENT + 0x123
        traps 14, 2, mov [rbx], eax
        mov ebx, READ_ONLY + 0x40
        traps 14, 3, mov [rbx], eax
        mov rax, [TRAP_CR2]
        expect rax, READ_ONLY + 0x40
        mov rax, cr0
        and eax, ~0x10000               # without WP a supervisor may
        mov cr0, rax
        mov dword ptr [rbx], 77
        or eax, 0x10000
        mov cr0, rax
        mov eax, [0x200040]
        expect rax, 77
        mov ebx, NO_EXECUTE
        traps 14, 0x11, jmp rbx
        mov rax, [TRAP_RIP]
        expect rax, NO_EXECUTE
        mov rbx, 0x8000000000000000
        traps 13, 0, mov rax, [rbx]
        mov rbp, rbx
        traps 12, 0, mov rax, [rbp]
        xor ecx, ecx
        mov edx, 1
        mov eax, 1
        traps 0, 0, div ecx
        mov ebx, 0
        traps 0, 0, idiv bl
        traps 6, 0, ud2
        mov rax, [TRAP_CS]
        expect rax, CODE0
        lea rcx, [rip + 1f]
        traps 6, 0, 1: ud2
        mov rax, [TRAP_RIP]
        sub rax, rcx
        expect rax, 0
        end_group
        group interrupt, PRIVILEGED | NEEDS_INT
        stc
        traps 0x40, 0, int 0x40
        mov rax, [TRAP_FLAGS]
        and eax, CF
        expect rax, CF
        lea rcx, [rip + 1f]
        traps 3, 0, 1: int3
        mov rax, [TRAP_RIP]
        sub rax, rcx
        expect rax, 1                   # behind it
        end_group
        .section .note.GNU-stack, "", @progbits
