# SPDX-License-Identifier: Apache-2.0
# Jcc, SETcc, CMOVcc, LOOP, JRCXZ, indirect jumps.
        .include "guest.inc"
        group branch, 0
        mov eax, 3
        cmp eax, 5
        setl bl
        setb bh
        movzx rbx, bx
        expect rbx, 0x101
        mov rcx, -1
        cmovg ecx, eax                  # not taken: still zero-extends
        expect rcx, 0xffffffff
        xor edx, edx
        mov ecx, 10
7:      add edx, ecx
        loop 7b
        expect rdx, 55
        mov ecx, 1
        jrcxz 8f
        mov edx, 9
8:      expect rdx, 9
        lea r11, [rip + 7f]
        jmp r11
        mov edx, 1
7:      expect rdx, 9
        end_group
        .section .note.GNU-stack, "", @progbits
