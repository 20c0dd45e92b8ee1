// SPDX-License-Identifier: Apache-2.0
// Opcode map 0F3A, legacy encodings; all have an immediate byte. Spec: Intel SDM vol 2D, table A-5.
#pragma once

#include "softkvm/cpu/decode_words.h"

namespace vireo::softkvm::tables {
using namespace words;
using enum Mnemonic;

constexpr Row k0F3A[] = {
    plain(0x08 | P66, kRoundps, {w(Vdq), Wdq, Ib}, F::kSse41),
    plain(0x09 | P66, kRoundpd, {w(Vdq), Wdq, Ib}, F::kSse41),
    plain(0x0A | P66, kRoundss, {rw(Vd), Wd, Ib}, F::kSse41),
    plain(0x0B | P66, kRoundsd, {rw(Vq), Wq, Ib}, F::kSse41),
    plain(0x0C | P66, kBlendps, {rw(Vdq), Wdq, Ib}, F::kSse41),
    plain(0x0D | P66, kBlendpd, {rw(Vdq), Wdq, Ib}, F::kSse41),
    plain(0x0E | P66, kPblendw, {rw(Vdq), Wdq, Ib}, F::kSse41),
    plain(0x0F | NP, kPalignr, {rw(Pq), Qq, Ib}, F::kSsse3),
    plain(0x0F | P66, kPalignr, {rw(Vdq), Wdq, Ib}, F::kSsse3),
    plain(0x14 | P66 | MEM, kPextrb, {w(Mb), Vdq, Ib}, F::kSse41),
    plain(0x14 | P66 | REG, kPextrb, {w(Rd), Vdq, Ib}, F::kSse41),
    plain(0x15 | P66 | MEM, kPextrw, {w(Mw), Vdq, Ib}, F::kSse41),
    plain(0x15 | P66 | REG, kPextrw, {w(Rd), Vdq, Ib}, F::kSse41),
    plain(0x16 | P66 | W0, kPextrd, {w(Ey), Vdq, Ib}, F::kSse41),
    plain(0x16 | P66 | W1, kPextrq, {w(Ey), Vdq, Ib}, F::kSse41),
    plain(0x17 | P66, kExtractps, {w(Ed), Vdq, Ib}, F::kSse41),
    plain(0x20 | P66 | MEM, kPinsrb, {rw(Vdq), Mb, Ib}, F::kSse41),
    plain(0x20 | P66 | REG, kPinsrb, {rw(Vdq), Rd, Ib}, F::kSse41),
    plain(0x21 | P66, kInsertps, {rw(Vdq), Wd, Ib}, F::kSse41),
    plain(0x22 | P66 | W0, kPinsrd, {rw(Vdq), Ey, Ib}, F::kSse41),
    plain(0x22 | P66 | W1, kPinsrq, {rw(Vdq), Ey, Ib}, F::kSse41),
    plain(0x40 | P66, kDpps, {rw(Vdq), Wdq, Ib}, F::kSse41),
    plain(0x41 | P66, kDppd, {rw(Vdq), Wdq, Ib}, F::kSse41),
    plain(0x42 | P66, kMpsadbw, {rw(Vdq), Wdq, Ib}, F::kSse41),
    plain(0x44 | P66, kPclmulqdq, {rw(Vdq), Wdq, Ib}, F::kPclmulqdq),
    plain(0x60 | P66, kPcmpestrm, {Vdq, Wdq, Ib, w(XMM0), yAX, yDX}, fArith, F::kSse42),
    plain(0x61 | P66, kPcmpestri, {Vdq, Wdq, Ib, w(ECX), yAX, yDX}, fArith, F::kSse42),
    plain(0x62 | P66, kPcmpistrm, {Vdq, Wdq, Ib, w(XMM0)}, fArith, F::kSse42),
    plain(0x63 | P66, kPcmpistri, {Vdq, Wdq, Ib, w(ECX)}, fArith, F::kSse42),
    plain(0xCC | NP, kSha1rnds4, {rw(Vdq), Wdq, Ib}, F::kSha),
    plain(0xCE | P66, kGf2p8affineqb, {rw(Vdq), Wdq, Ib}, F::kGfni),
    plain(0xCF | P66, kGf2p8affineinvqb, {rw(Vdq), Wdq, Ib}, F::kGfni),
    plain(0xDF | P66, kAeskeygenassist, {w(Vdq), Wdq, Ib}, F::kAes),
};

}  // namespace vireo::softkvm::tables
