# SPDX-License-Identifier: Apache-2.0
# SSE and x87 at CPL 0, with the exceptions that a kernel sees. Spec: Intel SDM vol 3, 6.15 (#NM, #XM, #MF).
        .include "guest.inc"
        group sse0, PRIVILEGED | NEEDS_SSE0
        mov eax, 5
        cvtsi2sd xmm0, eax
        addsd xmm0, xmm0
        cvtsd2si rax, xmm0
        expect rax, 10
        mov dword ptr [r12], 0x1f80 & ~0x200  # #Z not masked
        ldmxcsr [r12]
        pxor xmm1, xmm1
        traps 19, 0, divsd xmm0, xmm1
        cvtsd2si rax, xmm0
        expect rax, 10
        mov dword ptr [r12], 0x1f80
        ldmxcsr [r12]
        mov rax, cr0
        or eax, 8                       # TS
        mov cr0, rax
        traps 7, 0, addsd xmm0, xmm0
        traps 7, 0, fld1
        clts
        fninit
        mov word ptr [r12], 0x37f & ~4  # #Z not masked
        fldcw [r12]
        fld1
        fldz
        fdivp
        traps 16, 0, fwait
        fninit
        end_group
        .section .note.GNU-stack, "", @progbits
