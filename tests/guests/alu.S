# SPDX-License-Identifier: Apache-2.0
# ADD, SUB, ADC, SBB, INC, DEC, NEG, AND, OR, XOR, CMP of all widths. Intel SDM vol 1, 3.4.3.1 and vol 2.
        .include "guest.inc"
        group alu, 0
        movabs rax, 0x7fffffffffffffff
        mov ecx, 1
        .globl guest_break_here
guest_break_here:
        add rax, rcx                    # --break-one makes SUB of it
        expect rax, 0x8000000000000000
        mov al, 0xff
        add al, 1
        expect_flags ALL, CF|PF|AF|ZF
        mov rdx, -1
        add edx, 1                      # 32 bits: the upper half is cleared
        expect rdx, 0
        mov rdx, -1
        mov dx, 0x1234                  # 16 bits: the rest stays
        expect rdx, 0xffffffffffff1234
        mov dh, 0x56
        expect rdx, 0xffffffffffff5634
        stc
        mov ebx, 5
        adc ebx, 7
        expect rbx, 13
        stc
        sbb rbx, 13
        expect rbx, -1
        stc
        inc rbx                         # CF stays
        expect_flags CF|ZF, CF|ZF
        mov r9d, 1
        neg r9
        expect r9, -1
        mov r10d, 0xf0
        and r10d, 0x3c
        xor r10d, 0xff
        or r10d, 0x100
        expect r10, 0x1cf
        mov r11d, 3
        cmp r11, 4
        expect_flags CF|ZF|SF|OF, CF|SF
        end_group
        .section .note.GNU-stack, "", @progbits
