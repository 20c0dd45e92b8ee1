// SPDX-License-Identifier: Apache-2.0
// The only code of ours in a stub process: does the system calls of a list and stops. Entered with rbx at the list. Position independent; copied
// into the stub's image.
#include "softkvm/native/stub_layout.h"
        .intel_syntax noprefix
        .section .rodata
        .globl softkvm_native_code, softkvm_native_syscall, softkvm_native_nothing, softkvm_native_code_end
softkvm_native_code:
        mov rax, [rbx]
        cmp rax, -1
        je 1f
        mov rdi, [rbx + 8]
        mov rsi, [rbx + 16]
        mov rdx, [rbx + 24]
        mov r10, [rbx + 32]
        mov r8, [rbx + 40]
        mov r9, [rbx + 48]
softkvm_native_syscall:
        syscall
        cmp rax, -4095
        jae 2f
        add rbx, STUB_CALL_SIZE
        jmp softkvm_native_code
1:      int3                    // all done
2:      ud2                     // the one at rbx has failed
        .balign 8
softkvm_native_nothing:
        .quad -1
softkvm_native_code_end:
        .section .note.GNU-stack, "", @progbits
