# SPDX-License-Identifier: Apache-2.0
# A guest with no interrupt table that takes an exception: #UD, #DF, shutdown. A PC resets then.
        .include "multiboot.inc"
_start: mov     $stack_top, %esp
        say     "guest: about to triple-fault"
        lidt    no_table
        ud2
        .section .rodata
no_table: .word 0
        .long   0
        .bss
        .skip   4096
stack_top:
