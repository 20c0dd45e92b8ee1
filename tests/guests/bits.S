# SPDX-License-Identifier: Apache-2.0
# BT, BTS, BTR, BTC with registers and bit strings in memory; BSF, BSR, BSWAP.
        .include "guest.inc"
        group bits, 0
        mov rax, 4
        bt rax, 2
        expect_flags CF, CF
        mov qword ptr [r12], 0
        mov qword ptr [r12 - 8], 0
        mov rcx, -1
        bts qword ptr [r12], rcx
        mov rbx, [r12 - 8]
        expect rbx, 0x8000000000000000
        mov ecx, 3
        lock btc dword ptr [r12], ecx
        mov rbx, [r12]
        expect rbx, 8
        btr qword ptr [r12], 3
        mov rbx, [r12]
        expect rbx, 0
        mov edx, 0x00f0
        bsf r9d, edx
        bsr r10d, edx
        expect r9, 4
        expect r10, 7
        mov eax, 0x01020304
        bswap eax
        expect rax, 0x04030201
        end_group
        .section .note.GNU-stack, "", @progbits
