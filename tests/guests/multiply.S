# SPDX-License-Identifier: Apache-2.0
# MUL, IMUL, DIV, IDIV, CBW to CQO.
        .include "guest.inc"
        group multiply, 0
        mov rax, -1
        mov r11d, 2
        mul r11
        expect rax, -2
        expect rdx, 1
        imul rbx, rax, -3
        expect rbx, 6
        mov edx, 1
        xor eax, eax
        mov r9d, 16
        div r9
        expect rax, 0x1000000000000000
        mov rax, -7
        cqo
        mov ecx, 2
        idiv rcx
        expect rax, -3
        expect rdx, -1
        mov eax, 0x80
        cbw
        cwde
        cdqe
        expect rax, -128
        mov al, 200
        mov bl, 3
        mul bl
        movzx rax, ax
        expect rax, 600
        end_group
        .section .note.GNU-stack, "", @progbits
