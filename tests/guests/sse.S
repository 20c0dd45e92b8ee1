# SPDX-License-Identifier: Apache-2.0
# SSE and SSE2: arithmetic, conversion, shuffles, MXCSR.
        .include "guest.inc"
        group sse, 0
        mov eax, 3
        cvtsi2sd xmm0, eax
        addsd xmm0, xmm0
        movq rbx, xmm0
        expect rbx, 0x4018000000000000
        sqrtsd xmm1, xmm0
        mulsd xmm1, xmm1
        cvtsd2si rcx, xmm1
        expect rcx, 6
        pcmpeqd xmm2, xmm2
        movdqu [r12 + 1], xmm2
        psrldq xmm2, 12
        movq rdx, xmm2
        expect rdx, 0xffffffff
        mov eax, [r12 + 13]
        expect rax, 0xffffffff
        pshufd xmm3, xmm2, 0x1b
        pmovmskb eax, xmm3
        expect rax, 0xf000
        mov dword ptr [r12], 0x7f80
        ldmxcsr [r12]
        mov eax, 7
        cvtsi2ss xmm4, eax
        mov eax, 2
        cvtsi2ss xmm5, eax
        divss xmm4, xmm5
        cvtss2si eax, xmm4              # towards zero
        expect rax, 3
        mov dword ptr [r12], 0x1f80
        ldmxcsr [r12]
        end_group
        .section .note.GNU-stack, "", @progbits
