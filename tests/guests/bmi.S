# SPDX-License-Identifier: Apache-2.0
# BMI1, BMI2, LZCNT, TZCNT, POPCNT.
        .include "guest.inc"
        group bmi, NEEDS_BMI2
        mov eax, 0xf0
        mov ecx, 0x3c
        andn rbx, rax, rcx
        expect rbx, 0x0c
        blsi rbx, rax
        expect rbx, 0x10
        blsr rbx, rax
        expect rbx, 0xe0
        mov edx, 0x0404
        bextr rbx, rax, rdx
        expect rbx, 0x0f
        pdep r9, rcx, rax
        expect r9, 0xc0
        pext r10, rcx, rax
        expect r10, 3
        rorx r11, rax, 4
        expect r11, 0x0f
        shlx r11, r11, rdx
        expect r11, 0xf0
        xor eax, eax
        tzcnt rbx, rax
        expect rbx, 64
        mov eax, 1
        lzcnt rbx, rax
        expect rbx, 63
        popcnt rbx, rcx
        expect rbx, 4
        mov rdx, -1
        mulx r9, r10, rdx
        expect r9, -2
        expect r10, 1
        end_group
        .section .note.GNU-stack, "", @progbits
