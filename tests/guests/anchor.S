# SPDX-License-Identifier: Apache-2.0
# The image's begin: linked first.
        .section guest_text, "ax"
        .balign 4096
        .globl guest_anchor
guest_anchor: ud2
        .section .note.GNU-stack, "", @progbits
