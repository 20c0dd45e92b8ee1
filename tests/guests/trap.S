# SPDX-License-Identifier: Apache-2.0
# Where every gate of the IDT leads (main.cpp makes the stubs): vector and error code lie on the stack.
        .include "guest.inc"
        .section guest_text, "ax"
        .globl guest_trap
guest_trap:
        push rax
        mov rax, [rsp + 8]
        mov [TRAP_VECTOR], rax
        mov rax, [rsp + 16]
        mov [TRAP_ERROR], rax
        mov rax, [rsp + 24]
        mov [TRAP_RIP], rax
        mov rax, [rsp + 32]
        mov [TRAP_CS], rax
        mov rax, [rsp + 40]
        mov [TRAP_FLAGS], rax
        mov rax, cr2
        mov [TRAP_CR2], rax
        mov rax, [TRAP_RESUME]
        mov [rsp + 24], rax
        pop rax
        add rsp, 16
        iretq
        .section .note.GNU-stack, "", @progbits
