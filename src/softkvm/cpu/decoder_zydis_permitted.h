// SPDX-License-Identifier: Apache-2.0
// Where the decoder may differ from Zydis, and why. A * in a name stands for any text.
#pragma once

#include <string_view>

namespace vireo::softkvm {

struct Permitted {
  std::string_view what, ours, theirs, reason;
};

constexpr Permitted kPermitted[] = {
    // Features no guest of ours is offered: #UD, or the hint NOP the encoding was before.
    {"validity", "(invalid)", "isa:AMD3DNOW*", "3DNow!: AMD APM vol 3"},
    {"validity", "(invalid)", "aesdec*kl", "Key Locker: SDM vol 2, AESDEC128KL, 'If CPUID.19H:EBX[0] = 0: #UD'"},
    {"validity", "(invalid)", "aesenc*kl", "Key Locker"},
    {"validity", "(invalid)", "encodekey*", "Key Locker"},
    {"validity", "(invalid)", "loadiwkey", "Key Locker"},
    {"validity", "(invalid)", "clrssbsy", "CET: SDM vol 2, CLRSSBSY, 'If CR4.CET = 0: #UD'"},
    {"validity", "(invalid)", "setssbsy", "CET"},
    {"validity", "(invalid)", "rstorssp", "CET"},
    {"validity", "(invalid)", "saveprevssp", "CET"},
    {"validity", "(invalid)", "incssp*", "CET"},
    {"validity", "(invalid)", "wrss*", "CET"},
    {"validity", "(invalid)", "wruss*", "CET"},
    {"name", "nop", "rdssp*", "CET: SDM vol 2, RDSSPD, a NOP where CET is not enabled"},
    {"validity", "(invalid)", "clui", "user interrupts: SDM vol 2, CLUI, 'If CR4.UINTR = 0: #UD'"},
    {"validity", "(invalid)", "stui", "user interrupts"},
    {"validity", "(invalid)", "testui", "user interrupts"},
    {"validity", "(invalid)", "uiret", "user interrupts"},
    {"validity", "(invalid)", "senduipi", "user interrupts"},
    {"validity", "(invalid)", "encl*", "SGX: SDM vol 2, ENCLS, 'If CPUID.12H.0 says no SGX1: #UD'"},
    {"validity", "(invalid)", "seam*", "TDX"},
    {"validity", "(invalid)", "tdcall", "TDX"},
    {"validity", "(invalid)", "hreset", "HRESET: SDM vol 2, '#UD if CPUID.07H.01H:EAX[22] = 0'"},
    {"validity", "(invalid)", "montmul", "VIA PadLock, not in the manuals of Intel and AMD"},
    {"validity", "(invalid)", "xcrypt*", "VIA PadLock"},
    {"validity", "(invalid)", "xsha*", "VIA PadLock"},
    {"validity", "(invalid)", "xstore", "VIA PadLock"},
    {"validity", "(invalid)", "isa:KNC*", "Knights Corner: no CPU of the manuals"},
    {"validity", "(invalid)", "isa:FMA4*", "AMD APM vol 3: FMA4 and XOP, in no CPU we offer"},
    {"validity", "(invalid)", "isa:XOP*", "as FMA4"},
    {"validity", "(invalid)", "isa:TBM*", "as FMA4"},
    {"validity", "(invalid)", "isa:AMX*", "AMX: SDM vol 2, '#UD if CR4.OSXSAVE = 0 or XCR0[18:17] != 11B'; never offered"},
    {"validity", "(invalid)", "isa:AVX512ER*", "Xeon Phi"},
    {"validity", "(invalid)", "isa:AVX512PF*", "Xeon Phi"},
    {"validity", "(invalid)", "isa:AVX512_4*", "Xeon Phi"},
    // The manuals against Zydis.
    {"validity", "(invalid)", "clzero", "with F2 or F3: #UD on a CPU (Zen 5); decoder_test.cpp has the plain form"},
    {"name", "xchg", "pause", "F3 with REX.B and 90: a CPU (Zen 5) exchanges; SDM vol 2, PAUSE, names F3 90 alone"},
    {"name", "wbnoinvd", "wbinvd", "SDM vol 2, WBNOINVD: F3 0F 09"},
    {"validity", "vpmadd52*", "(invalid)", "AVX-IFMA is younger than Zydis 4.0"},
    {"validity", "vcvt*sh*si", "(invalid)", "SDM vol 2, VCVTSH2SI: EVEX.W is ignored outside 64-bit mode; so does a CPU"},
    {"validity", "vcvt*si2sh", "(invalid)", "SDM vol 2, VCVTSI2SH: as VCVTSH2SI"},
    {"validity", "vcvt*si2sd", "(invalid)", "SDM vol 2, VCVTSI2SD: outside 64-bit mode W is ignored, so the conversion is exact and EVEX.b too; so does a CPU"},
    {"operand 0 segment", "call", "call", "SDM vol 1, 17.3.1.1: 3E is NOTRACK only where CET is enabled; without it DS stays DS"},
    {"operand 0 segment", "jmp", "jmp", "as call"},
    {"operand 0 read", "vcmp*h", "vcmp*h", "SDM vol 2, VCMPPH: bits masked off become 0, none is kept"},
    {"operand 0 read", "vfpclass*h", "vfpclass*h", "SDM vol 2, VFPCLASSPH: as VCMPPH"},
    {"flags written", "vptest", "vptest", "SDM vol 2, PTEST: OF AF PF SF are cleared"},
    {"flags written", "vtestp*", "vtestp*", "SDM vol 2, VTESTPD: OF AF PF SF are cleared"},
    {"flags read", "cmps*", "cmps*", "SDM vol 2, REP: ZF is looked at after an iteration that wrote it, never the ZF before"},
    {"flags read", "scas*", "scas*", "as cmps"},
    {"name", "fnop", "f*_nop", "SDM vol 3, 23.18: FENI, FDISI and FSETPM do nothing since the 387; one name will do"},
    {"operand 0 size", "clflush*", "clflush*", "SDM vol 2: m8, the line of a byte; Zydis says the line"},
    {"operand 0 size", "clwb", "clwb", "as clflush"},
    {"operand 1 register", "invlpgb", "invlpgb", "AMD APM vol 3: rAX, ECX, EDX are implicit, the order is ours"},
    {"operand 1 size", "lar", "lar", "SDM vol 2, LAR: of a register only bits 15:0 are read"},
    {"operand 1 size", "lsl", "lsl", "as lar"},
    {"operand 1 size", "movsxd", "movsxd", "SDM vol 2, MOVSXD r16, r/m16"},
};

}  // namespace vireo::softkvm
