# SPDX-License-Identifier: Apache-2.0
# MOVS, STOS, LODS, SCAS, CMPS with REP and both directions.
        .include "guest.inc"
        group string, 0
        lea rdi, [r12 + 1]
        mov al, 0x5a
        mov ecx, 100
        rep stosb
        mov byte ptr [r12 + 50], 1
        expect rcx, 0
        lea rsi, [r12 + 1]
        lea rdi, [r12 + 1027]
        mov ecx, 100
        rep movsb
        movzx rax, byte ptr [r12 + 1027 + 49]
        expect rax, 1
        lea rdi, [r12 + 1]
        mov al, 0x5a
        mov ecx, 100
        repe scasb
        expect rcx, 50
        lea rsi, [r12 + 1]
        lea rdi, [r12 + 1027]
        mov ecx, 100
        repe cmpsb
        expect_flags ZF, ZF
        std
        lea rsi, [r12 + 1027 + 49]
        lodsb
        cld
        movzx rax, al
        expect rax, 1
        lea rcx, [r12 + 1027 + 48]
        sub rsi, rcx
        expect rsi, 0
        end_group
        .section .note.GNU-stack, "", @progbits
