# SPDX-License-Identifier: Apache-2.0
# A guest that says so and then works for ever in one function: hot_function is called again and again, most of its time goes into the
# divisions. For tests of what names the code that runs.
        .include "multiboot.inc"
_start: mov     $stack_top, %esp
        say     "guest: working"
1:      call    hot_function
        jmp     1b

        .skip   0x1000
        .globl  hot_function
        .type   hot_function, @function
hot_function:
        mov     $1000, %ecx
2:      mov     $-1, %eax
        xor     %edx, %edx
        mov     $3, %ebx
        div     %ebx
        dec     %ecx
        jnz     2b
        ret

        .bss
        .skip   4096
stack_top:
