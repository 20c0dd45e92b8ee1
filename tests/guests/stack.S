# SPDX-License-Identifier: Apache-2.0
# PUSH, POP, CALL, RET, ENTER, LEAVE, PUSHF, POPF.
        .include "guest.inc"
        group stack, 0
        mov rbp, rsp
        push -2
        push qword ptr [rsp]
        pop rax
        pop rbx
        expect rax, -2
        mov rcx, rsp
        sub rcx, rbp
        expect rcx, 0
        push rsp
        pop rax
        sub rax, rbp
        expect rax, 0
        mov edx, 1
        call 7f
        mov ecx, 5
        jmp 8f
7:      add edx, 1
        ret
8:      expect rdx, 2
        expect rcx, 5
        mov rbp, 77
        enter 16, 0
        leave
        expect rbp, 77
        push 0x8d5
        popfq
        expect_flags ALL, ALL
        push 0x10000
        mov ax, [rsp + 2]
        movzx rax, ax
        add rsp, 8
        expect rax, 1
        end_group
        .section .note.GNU-stack, "", @progbits
