// SPDX-License-Identifier: Apache-2.0
// Opcode map 0F38, legacy encodings. Spec: Intel SDM vol 2D, table A-4. Left out: CET's wrss and wruss and the Key Locker instructions
// (no guest of ours has their CPUID bits, which are #UD without them).
#pragma once

#include "softkvm/cpu/decode_words.h"

namespace vireo::softkvm::tables {
using namespace words;
using enum Mnemonic;

#define VIREO_SSSE3(op, m) plain(op | NP, m, {rw(Pq), Qq}, F::kSsse3), plain(op | P66, m, {rw(Vdq), Wdq}, F::kSsse3)
#define VIREO_SSE41(op, m) plain(op | P66, m, {rw(Vdq), Wdq}, F::kSse41)

constexpr Row k0F38[] = {
    VIREO_SSSE3(0x00, kPshufb),
    VIREO_SSSE3(0x01, kPhaddw),
    VIREO_SSSE3(0x02, kPhaddd),
    VIREO_SSSE3(0x03, kPhaddsw),
    VIREO_SSSE3(0x04, kPmaddubsw),
    VIREO_SSSE3(0x05, kPhsubw),
    VIREO_SSSE3(0x06, kPhsubd),
    VIREO_SSSE3(0x07, kPhsubsw),
    VIREO_SSSE3(0x08, kPsignb),
    VIREO_SSSE3(0x09, kPsignw),
    VIREO_SSSE3(0x0A, kPsignd),
    VIREO_SSSE3(0x0B, kPmulhrsw),
    plain(0x10 | P66, kPblendvb, {rw(Vdq), Wdq, XMM0}, F::kSse41),
    plain(0x14 | P66, kBlendvps, {rw(Vdq), Wdq, XMM0}, F::kSse41),
    plain(0x15 | P66, kBlendvpd, {rw(Vdq), Wdq, XMM0}, F::kSse41),
    plain(0x17 | P66, kPtest, {Vdq, Wdq}, fArith, F::kSse41),
    plain(0x1C | NP, kPabsb, {w(Pq), Qq}, F::kSsse3),
    plain(0x1C | P66, kPabsb, {w(Vdq), Wdq}, F::kSsse3),
    plain(0x1D | NP, kPabsw, {w(Pq), Qq}, F::kSsse3),
    plain(0x1D | P66, kPabsw, {w(Vdq), Wdq}, F::kSsse3),
    plain(0x1E | NP, kPabsd, {w(Pq), Qq}, F::kSsse3),
    plain(0x1E | P66, kPabsd, {w(Vdq), Wdq}, F::kSsse3),
    plain(0x20 | P66, kPmovsxbw, {w(Vdq), Wq}, F::kSse41),
    plain(0x21 | P66, kPmovsxbd, {w(Vdq), Wd}, F::kSse41),
    plain(0x22 | P66, kPmovsxbq, {w(Vdq), Ww}, F::kSse41),
    plain(0x23 | P66, kPmovsxwd, {w(Vdq), Wq}, F::kSse41),
    plain(0x24 | P66, kPmovsxwq, {w(Vdq), Wd}, F::kSse41),
    plain(0x25 | P66, kPmovsxdq, {w(Vdq), Wq}, F::kSse41),
    VIREO_SSE41(0x28, kPmuldq),
    VIREO_SSE41(0x29, kPcmpeqq),
    plain(0x2A | P66, kMovntdqa, {w(Vdq), Mdq}, F::kSse41),
    VIREO_SSE41(0x2B, kPackusdw),
    plain(0x30 | P66, kPmovzxbw, {w(Vdq), Wq}, F::kSse41),
    plain(0x31 | P66, kPmovzxbd, {w(Vdq), Wd}, F::kSse41),
    plain(0x32 | P66, kPmovzxbq, {w(Vdq), Ww}, F::kSse41),
    plain(0x33 | P66, kPmovzxwd, {w(Vdq), Wq}, F::kSse41),
    plain(0x34 | P66, kPmovzxwq, {w(Vdq), Wd}, F::kSse41),
    plain(0x35 | P66, kPmovzxdq, {w(Vdq), Wq}, F::kSse41),
    plain(0x37 | P66, kPcmpgtq, {rw(Vdq), Wdq}, F::kSse42),
    VIREO_SSE41(0x38, kPminsb),
    VIREO_SSE41(0x39, kPminsd),
    VIREO_SSE41(0x3A, kPminuw),
    VIREO_SSE41(0x3B, kPminud),
    VIREO_SSE41(0x3C, kPmaxsb),
    VIREO_SSE41(0x3D, kPmaxsd),
    VIREO_SSE41(0x3E, kPmaxuw),
    VIREO_SSE41(0x3F, kPmaxud),
    VIREO_SSE41(0x40, kPmulld),
    plain(0x41 | P66, kPhminposuw, {w(Vdq), Wdq}, F::kSse41),
    sys(0x80 | P66, kInvept, {Gm, Mdq}, fLogic, F::kVmx, kForce64),
    sys(0x81 | P66, kInvvpid, {Gm, Mdq}, fLogic, F::kVmx, kForce64),
    sys(0x82 | P66, kInvpcid, {Gm, Mdq}, F::kInvpcid, kForce64),
    plain(0xC8 | NP, kSha1nexte, {rw(Vdq), Wdq}, F::kSha),
    plain(0xC9 | NP, kSha1msg1, {rw(Vdq), Wdq}, F::kSha),
    plain(0xCA | NP, kSha1msg2, {rw(Vdq), Wdq}, F::kSha),
    plain(0xCB | NP, kSha256rnds2, {rw(Vdq), Wdq, XMM0}, F::kSha),
    plain(0xCC | NP, kSha256msg1, {rw(Vdq), Wdq}, F::kSha),
    plain(0xCD | NP, kSha256msg2, {rw(Vdq), Wdq}, F::kSha),
    plain(0xCF | P66, kGf2p8mulb, {rw(Vdq), Wdq}, F::kGfni),
    plain(0xDB | P66, kAesimc, {w(Vdq), Wdq}, F::kAes),
    plain(0xDC | P66, kAesenc, {rw(Vdq), Wdq}, F::kAes),
    plain(0xDD | P66, kAesenclast, {rw(Vdq), Wdq}, F::kAes),
    plain(0xDE | P66, kAesdec, {rw(Vdq), Wdq}, F::kAes),
    plain(0xDF | P66, kAesdeclast, {rw(Vdq), Wdq}, F::kAes),
    plain(0xF0 | NP | P66, kMovbe, {w(Gv), Mv}, F::kMovbe),
    plain(0xF0 | PF2, kCrc32, {rw(Gy), Eb}, F::kSse42),
    plain(0xF1 | NP | P66, kMovbe, {w(Mv), Gv}, F::kMovbe),
    plain(0xF1 | PF2, kCrc32, {rw(Gy), Ev}, F::kSse42),
    plain(0xF6 | P66, kAdcx, {rw(Gy), Ey}, fCmc, F::kAdx),
    plain(0xF6 | PF3, kAdox, {rw(Gy), Ey}, fAdox, F::kAdx),
    special(0xF8 | P66, kMovdir64b, {Gm, M64}, F::kMovdir64b, kAddressSized),
    special(0xF8 | PF2, kEnqcmd, {Gm, M64}, fLogic, F::kEnqcmd, kAddressSized),
    sys(0xF8 | PF3, kEnqcmds, {Gm, M64}, fLogic, F::kEnqcmd, kAddressSized),
    plain(0xF9 | NP, kMovdiri, {w(My), Gy}, F::kMovdiri),
};

}  // namespace vireo::softkvm::tables
