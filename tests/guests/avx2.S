# SPDX-License-Identifier: Apache-2.0
# AVX and AVX2: 256 bits, masked moves, gathers.
        .include "guest.inc"
        group avx2, NEEDS_AVX2
        vpcmpeqd ymm0, ymm0, ymm0
        vpabsd ymm1, ymm0
        vmovdqu [r12 + 3], ymm1
        mov eax, [r12 + 3 + 28]
        expect rax, 1
        vpaddd ymm2, ymm1, [r12 + 3]
        vextracti128 xmm3, ymm2, 1
        vmovd eax, xmm3
        expect rax, 2
        vpslldq ymm4, ymm0, 12
        vpmaskmovd [r12 + 3], ymm4, ymm2
        mov rax, [r12 + 3 + 8]
        expect rax, 0x200000001
        vpxor xmm5, xmm5, xmm5
        vpgatherdd ymm6, [r12 + ymm5*4 + 3], ymm0
        vmovd eax, xmm6
        expect rax, 1
        vpmovmskb eax, ymm0             # the mask is used up
        expect rax, 0
        vzeroupper
        end_group
        .section .note.GNU-stack, "", @progbits
