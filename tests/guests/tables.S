# SPDX-License-Identifier: Apache-2.0
# LGDT, SGDT, LIDT, SIDT, STR, LTR, SLDT, LLDT, segment loads, far transfers, IRET. Spec: Intel SDM vol 3, 5.8; vol 2.
        .include "guest.inc"
        group tables, PRIVILEGED
        sgdt [r12]
        movzx eax, word ptr [r12]
        expect rax, 0x3f
        mov rax, [r12 + 2]
        expect rax, 0x5000
        lgdt [r12]
        sidt [r12 + 16]
        movzx eax, word ptr [r12 + 16]
        expect rax, 0xfff
        mov rax, [r12 + 18]
        expect rax, 0x6000
        lidt [r12 + 16]
        mov rax, -1
        str eax
        expect rax, TSS
        xor eax, eax
        lldt ax
        mov rax, -1
        sldt eax
        expect rax, 0
        mov eax, DATA0
        mov ds, eax
        mov es, eax
        mov ecx, es
        expect rcx, DATA0
        xor eax, eax
        mov fs, eax
        mov rcx, -1
        mov ecx, fs
        expect rcx, 0
        # A busy TSS, code as data segment in SS, beyond the limit, SS without the right privilege.
        mov ebx, TSS
        traps 13, TSS, ltr bx
        mov ebx, CODE0
        traps 13, CODE0, mov ss, ebx
        mov ebx, 0x1000
        traps 13, 0x1000, mov ds, ebx
        mov ebx, DATA3 | 3
        traps 13, DATA3, mov ss, ebx
        mov ebx, DATA0
        mov ss, ebx
        mov ds, ebx
        lea rax, [rip + 1f]
        push CODE0
        push rax
        rex.w retf
        ud2
1:      mov eax, cs
        expect rax, CODE0
        mov rbx, rsp
        push DATA0
        push rbx
        push 0x2 | CF | ZF
        push CODE0
        lea rax, [rip + 2f]
        push rax
        iretq
2:      expect_flags ALL, CF | ZF
        sub rbx, rsp
        expect rbx, 0
        end_group
        group access_rights, PRIVILEGED | NEEDS_LAR
        mov ebx, CODE0
        lar eax, ebx
        and eax, 0xf000                 # present, DPL 0, code or data
        expect rax, 0x9000
        expect_flags ZF, ZF
        lsl eax, ebx
        expect rax, 0xffffffff
        verw bx
        expect_flags ZF, 0
        mov ebx, DATA0
        verw bx
        expect_flags ZF, ZF
        mov ebx, 0x1000
        lar eax, ebx
        expect_flags ZF, 0
        end_group
        .section .note.GNU-stack, "", @progbits
