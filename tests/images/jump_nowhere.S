# SPDX-License-Identifier: Apache-2.0
# A guest that jumps to an address where there is neither RAM nor ROM nor a device.
        .include "multiboot.inc"
_start: mov     $stack_top, %esp
        say     "guest: about to jump to nowhere"
        mov     $0xd0000000, %eax
        jmp     *%eax
        .bss
        .skip   4096
stack_top:
