# SPDX-License-Identifier: Apache-2.0
# RDMSR, WRMSR, SWAPGS and the bases that they set. Spec: Intel SDM vol 4, 2.1; vol 2, SWAPGS.
        .include "guest.inc"
        .macro wrmsr_is index, value
        mov ecx, \index
        movabs rax, \value
        mov rdx, rax
        shr rdx, 32
        wrmsr
        .endm
        .macro expect_msr index, value
        mov ecx, \index
        rdmsr
        shl rdx, 32
        or rax, rdx
        expect rax, \value
        .endm
        group msr, PRIVILEGED
        mov rax, 0x1122334455667788
        mov [0x90100], rax
        wrmsr_is 0xc0000100, 0x90100    # IA32_FS_BASE
        mov rax, fs:[0]
        expect rax, 0x1122334455667788
        wrmsr_is 0xc0000101, 0x90108    # IA32_GS_BASE
        wrmsr_is 0xc0000102, 0x90100    # IA32_KERNEL_GS_BASE
        mov rax, gs:[-8]
        expect rax, 0x1122334455667788
        swapgs
        mov rax, gs:[0]
        expect rax, 0x1122334455667788
        expect_msr 0xc0000101, 0x90100
        expect_msr 0xc0000102, 0x90108
        wrmsr_is 0xc0000082, 0xffffffff80001000
        expect_msr 0xc0000082, 0xffffffff80001000
        expect_msr 0xc0000080, 0xd01    # IA32_EFER: SCE, LME, LMA, NXE
        # Not canonical; a reserved bit of IA32_EFER.
        mov ecx, 0xc0000100
        mov edx, 0x40000000
        xor eax, eax
        traps 13, 0, wrmsr
        mov ecx, 0xc0000080
        mov edx, 1
        traps 13, 0, wrmsr
        wrmsr_is 0xc0000100, 0
        wrmsr_is 0xc0000101, 0
        end_group
        .section .note.GNU-stack, "", @progbits
