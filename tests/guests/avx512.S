# SPDX-License-Identifier: Apache-2.0
# AVX-512: 512 bits, opmasks, zeroing, masked stores.
        .include "guest.inc"
        group avx512, NEEDS_AVX512
        vpternlogd zmm16, zmm16, zmm16, 0xff
        vpabsq zmm17, zmm16
        mov eax, 0x0f
        kmovw k1, eax
        vpxord zmm18, zmm18, zmm18
        vmovdqu64 [r12 + 5], zmm18
        vmovdqu64 [r12 + 5]{k1}, zmm17
        mov rax, [r12 + 5 + 24]
        expect rax, 1
        mov rax, [r12 + 5 + 32]
        expect rax, 0
        vpaddq zmm19{k1}{z}, zmm17, [r12 + 5]
        vpcmpq k2, zmm19, zmm18, 0
        kmovw eax, k2
        expect rax, 0xf0
        vzeroupper
        end_group
        .section .note.GNU-stack, "", @progbits
