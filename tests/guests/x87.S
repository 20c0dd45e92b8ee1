# SPDX-License-Identifier: Apache-2.0
# x87: stack, arithmetic, comparison, control word.
        .include "guest.inc"
        group x87, 0
        fninit
        fld1
        fld1
        faddp
        fld st(0)
        fmulp
        fistp qword ptr [r12]
        mov rax, [r12]
        expect rax, 4
        fldpi
        fstp qword ptr [r12]
        mov rax, [r12]
        expect rax, 0x400921fb54442d18
        fld1
        fldz
        fcomip st, st(1)
        fstp st(0)
        expect_flags CF|PF|ZF, CF
        fnstcw [r12]
        movzx rax, word ptr [r12]
        expect rax, 0x37f
        fnstsw ax
        and eax, 0x383f                 # TOP and the exceptions: storing pi was inexact
        expect rax, 0x20
        end_group
        .section .note.GNU-stack, "", @progbits
