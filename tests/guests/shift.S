# SPDX-License-Identifier: Apache-2.0
# SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD.
        .include "guest.inc"
        group shift, 0
        mov eax, 0x80000001
        shl eax, 1
        expect_flags CF|OF, CF|OF
        mov rax, -8
        sar rax, 1
        expect rax, -4
        mov rax, -8
        mov cl, 60
        shr rax, cl
        expect rax, 15
        mov bl, 0x81
        rol bl, 1
        movzx rbx, bl
        expect rbx, 3
        stc
        mov edx, 0
        rcr edx, 1
        expect rdx, 0x80000000
        mov r9d, 0x12345678
        mov r10d, 0x9abcdef0
        shld r9d, r10d, 8
        expect r9, 0x3456789a
        shrd r9, r10, 4
        expect r9, 0x0000000003456789
        mov eax, 1
        cmp eax, 2                      # a count of zero leaves the flags
        mov cl, 32
        shl eax, cl
        expect_flags CF, CF
        end_group
        .section .note.GNU-stack, "", @progbits
