# SPDX-License-Identifier: Apache-2.0
# SYSCALL and SYSRET between CPL 0 and 3. Spec: Intel SDM vol 2; vol 3, 5.8.8.
        .include "guest.inc"
        group syscall, PRIVILEGED | NEEDS_SYSCALL
        lea rax, [rip + 3f]
        mov rdx, rax
        shr rdx, 32
        mov ecx, 0xc0000082             # IA32_LSTAR
        wrmsr
        mov ecx, 0xc0000081             # IA32_STAR
        xor eax, eax
        mov edx, 0x00180008
        wrmsr
        mov ecx, 0xc0000084             # IA32_FMASK
        mov eax, CF | 0x400
        xor edx, edx
        wrmsr
        mov rbx, rsp
        lea rcx, [rip + 1f]
        mov r11d, 2 | CF | ZF
        sysretq
1:      mov esi, cs
        mov edi, ss
        syscall
2:      ud2
3:      mov rsp, rbx
        pushfq
        pop rbp
        and ebp, ALL | 0x400
        expect rbp, ZF                  # the masked carry flag is clear now
        and r11d, ALL
        expect r11, CF | ZF
        lea rax, [rip + 2b]
        sub rcx, rax
        expect rcx, 0
        expect rsi, CODE3 | 3
        expect rdi, DATA3 | 3
        mov eax, cs
        expect rax, CODE0
        mov eax, ss
        expect rax, DATA0
        end_group
        .section .note.GNU-stack, "", @progbits
