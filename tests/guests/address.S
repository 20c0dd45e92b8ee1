# SPDX-License-Identifier: Apache-2.0
# LEA and loads with all address forms.
        .include "guest.inc"
        group address, 0
        mov eax, 0x10
        mov r9d, 3
        lea rbx, [rax + r9*8 - 4]
        expect rbx, 0x24
        mov r10, 0x100000000
        lea ebx, [r10d + eax]
        expect rbx, 0x10
        lea rcx, [rip + 7f]
        lea rdx, [rip]
7:      sub rcx, rdx
        expect rcx, 0
        mov dword ptr [r12 + 64], 0x80000000
        mov r11, -16
        movsxd rax, dword ptr [r12 + r11*4 + 128]
        expect rax, 0xffffffff80000000
        mov [rsp + 8], r12
        mov rsi, [rsp + 8]
        sub rsi, r12
        expect rsi, 0
        end_group
        .section .note.GNU-stack, "", @progbits
