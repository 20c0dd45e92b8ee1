// SPDX-License-Identifier: Apache-2.0
// Instruction names, as the manuals spell them. One name for a family that the encoding tells apart: conditions (jcc, setcc, cmovcc: opcode
// & 15), operand size (cbw for cwde cdqe, cwd for cdq cqo, movs, stos, pushf, iret ...) and address size (jcxz).
#pragma once

#include <cstdint>

namespace vireo::softkvm {

#define VIREO_MNEMONICS(X) \
  X(Aaa, "aaa") X(Aad, "aad") X(Aam, "aam") X(Aas, "aas") X(Adc, "adc") X(Adcx, "adcx") X(Add, "add") X(Addpd, "addpd") \
  X(Addps, "addps") X(Addsd, "addsd") X(Addss, "addss") X(Addsubpd, "addsubpd") X(Addsubps, "addsubps") X(Adox, "adox") \
  X(Aesdec, "aesdec") X(Aesdeclast, "aesdeclast") X(Aesenc, "aesenc") X(Aesenclast, "aesenclast") X(Aesimc, "aesimc") \
  X(Aeskeygenassist, "aeskeygenassist") X(And, "and") X(Andnpd, "andnpd") X(Andnps, "andnps") X(Andpd, "andpd") X(Andps, "andps") \
  X(Arpl, "arpl") X(Blendpd, "blendpd") X(Blendps, "blendps") X(Blendvpd, "blendvpd") X(Blendvps, "blendvps") X(Bound, "bound") \
  X(Bsf, "bsf") X(Bsr, "bsr") X(Bswap, "bswap") X(Bt, "bt") X(Btc, "btc") X(Btr, "btr") X(Bts, "bts") X(Call, "call") \
  X(CallFar, "call far") X(Cbw, "cbw") X(Clac, "clac") X(Clc, "clc") X(Cld, "cld") X(Cldemote, "cldemote") X(Clflush, "clflush") \
  X(Clflushopt, "clflushopt") X(Clgi, "clgi") X(Cli, "cli") X(Clts, "clts") X(Clwb, "clwb") X(Clzero, "clzero") X(Cmc, "cmc") \
  X(Cmovcc, "cmovcc") X(Cmp, "cmp") X(Cmppd, "cmppd") X(Cmpps, "cmpps") X(Cmps, "cmps") X(Cmpsd, "cmpsd") X(Cmpss, "cmpss") \
  X(Cmpxchg, "cmpxchg") X(Cmpxchg16b, "cmpxchg16b") X(Cmpxchg8b, "cmpxchg8b") X(Comisd, "comisd") X(Comiss, "comiss") X(Cpuid, "cpuid") \
  X(Crc32, "crc32") X(Cvtdq2pd, "cvtdq2pd") X(Cvtdq2ps, "cvtdq2ps") X(Cvtpd2dq, "cvtpd2dq") X(Cvtpd2pi, "cvtpd2pi") \
  X(Cvtpd2ps, "cvtpd2ps") X(Cvtpi2pd, "cvtpi2pd") X(Cvtpi2ps, "cvtpi2ps") X(Cvtps2dq, "cvtps2dq") X(Cvtps2pd, "cvtps2pd") \
  X(Cvtps2pi, "cvtps2pi") X(Cvtsd2si, "cvtsd2si") X(Cvtsd2ss, "cvtsd2ss") X(Cvtsi2sd, "cvtsi2sd") X(Cvtsi2ss, "cvtsi2ss") \
  X(Cvtss2sd, "cvtss2sd") X(Cvtss2si, "cvtss2si") X(Cvttpd2dq, "cvttpd2dq") X(Cvttpd2pi, "cvttpd2pi") X(Cvttps2dq, "cvttps2dq") \
  X(Cvttps2pi, "cvttps2pi") X(Cvttsd2si, "cvttsd2si") X(Cvttss2si, "cvttss2si") X(Cwd, "cwd") X(Daa, "daa") X(Das, "das") X(Dec, "dec") \
  X(Div, "div") X(Divpd, "divpd") X(Divps, "divps") X(Divsd, "divsd") X(Divss, "divss") X(Dppd, "dppd") X(Dpps, "dpps") X(Emms, "emms") \
  X(Endbr32, "endbr32") X(Endbr64, "endbr64") X(Enqcmd, "enqcmd") X(Enqcmds, "enqcmds") X(Enter, "enter") X(Extractps, "extractps") \
  X(Extrq, "extrq") X(F2xm1, "f2xm1") X(Fabs, "fabs") X(Fadd, "fadd") X(Faddp, "faddp") X(Fbld, "fbld") X(Fbstp, "fbstp") \
  X(Fchs, "fchs") X(Fcmovb, "fcmovb") X(Fcmovbe, "fcmovbe") X(Fcmove, "fcmove") X(Fcmovnb, "fcmovnb") X(Fcmovnbe, "fcmovnbe") \
  X(Fcmovne, "fcmovne") X(Fcmovnu, "fcmovnu") X(Fcmovu, "fcmovu") X(Fcom, "fcom") X(Fcomi, "fcomi") X(Fcomip, "fcomip") \
  X(Fcomp, "fcomp") X(Fcompp, "fcompp") X(Fcos, "fcos") X(Fdecstp, "fdecstp") X(Fdiv, "fdiv") X(Fdivp, "fdivp") X(Fdivr, "fdivr") \
  X(Fdivrp, "fdivrp") X(Ffree, "ffree") X(Ffreep, "ffreep") X(Fiadd, "fiadd") X(Ficom, "ficom") X(Ficomp, "ficomp") X(Fidiv, "fidiv") \
  X(Fidivr, "fidivr") X(Fild, "fild") X(Fimul, "fimul") X(Fincstp, "fincstp") X(Fist, "fist") X(Fistp, "fistp") X(Fisttp, "fisttp") \
  X(Fisub, "fisub") X(Fisubr, "fisubr") X(Fld, "fld") X(Fld1, "fld1") X(Fldcw, "fldcw") X(Fldenv, "fldenv") X(Fldl2e, "fldl2e") \
  X(Fldl2t, "fldl2t") X(Fldlg2, "fldlg2") X(Fldln2, "fldln2") X(Fldpi, "fldpi") X(Fldz, "fldz") X(Fmul, "fmul") X(Fmulp, "fmulp") \
  X(Fnclex, "fnclex") X(Fninit, "fninit") X(Fnop, "fnop") X(Fnsave, "fnsave") X(Fnstcw, "fnstcw") X(Fnstenv, "fnstenv") \
  X(Fnstsw, "fnstsw") X(Fpatan, "fpatan") X(Fprem, "fprem") X(Fprem1, "fprem1") X(Fptan, "fptan") X(Frndint, "frndint") \
  X(Frstor, "frstor") X(Fscale, "fscale") X(Fsin, "fsin") X(Fsincos, "fsincos") X(Fsqrt, "fsqrt") X(Fst, "fst") X(Fstp, "fstp") \
  X(Fstpnce, "fstpnce") X(Fsub, "fsub") X(Fsubp, "fsubp") X(Fsubr, "fsubr") X(Fsubrp, "fsubrp") X(Ftst, "ftst") X(Fucom, "fucom") \
  X(Fucomi, "fucomi") X(Fucomip, "fucomip") X(Fucomp, "fucomp") X(Fucompp, "fucompp") X(Fwait, "fwait") X(Fxam, "fxam") X(Fxch, "fxch") \
  X(Fxrstor, "fxrstor") X(Fxsave, "fxsave") X(Fxtract, "fxtract") X(Fyl2x, "fyl2x") X(Fyl2xp1, "fyl2xp1") X(Getsec, "getsec") \
  X(Gf2p8affineinvqb, "gf2p8affineinvqb") X(Gf2p8affineqb, "gf2p8affineqb") X(Gf2p8mulb, "gf2p8mulb") X(Haddpd, "haddpd") \
  X(Haddps, "haddps") X(Hlt, "hlt") X(Hsubpd, "hsubpd") X(Hsubps, "hsubps") X(Idiv, "idiv") X(Imul, "imul") X(In, "in") X(Inc, "inc") \
  X(Ins, "ins") X(Insertps, "insertps") X(Insertq, "insertq") X(Int, "int") X(Int1, "int1") X(Int3, "int3") X(Into, "into") \
  X(Invd, "invd") X(Invept, "invept") X(Invlpg, "invlpg") X(Invlpga, "invlpga") X(Invlpgb, "invlpgb") X(Invpcid, "invpcid") \
  X(Invvpid, "invvpid") X(Iret, "iret") X(Jcc, "jcc") X(Jcxz, "jcxz") X(Jmp, "jmp") X(JmpFar, "jmp far") X(Lahf, "lahf") X(Lar, "lar") \
  X(Lddqu, "lddqu") X(Ldmxcsr, "ldmxcsr") X(Lds, "lds") X(Lea, "lea") X(Leave, "leave") X(Les, "les") X(Lfence, "lfence") X(Lfs, "lfs") \
  X(Lgdt, "lgdt") X(Lgs, "lgs") X(Lidt, "lidt") X(Lldt, "lldt") X(Lmsw, "lmsw") X(Lods, "lods") X(Loop, "loop") X(Loope, "loope") \
  X(Loopne, "loopne") X(Lsl, "lsl") X(Lss, "lss") X(Ltr, "ltr") X(Lzcnt, "lzcnt") X(Maskmovdqu, "maskmovdqu") X(Maskmovq, "maskmovq") \
  X(Maxpd, "maxpd") X(Maxps, "maxps") X(Maxsd, "maxsd") X(Maxss, "maxss") X(Mcommit, "mcommit") X(Mfence, "mfence") X(Minpd, "minpd") \
  X(Minps, "minps") X(Minsd, "minsd") X(Minss, "minss") X(Monitor, "monitor") X(Monitorx, "monitorx") X(Mov, "mov") X(Movapd, "movapd") \
  X(Movaps, "movaps") X(Movbe, "movbe") X(Movd, "movd") X(Movddup, "movddup") X(Movdir64b, "movdir64b") X(Movdiri, "movdiri") \
  X(Movdq2q, "movdq2q") X(Movdqa, "movdqa") X(Movdqu, "movdqu") X(Movhlps, "movhlps") X(Movhpd, "movhpd") X(Movhps, "movhps") \
  X(Movlhps, "movlhps") X(Movlpd, "movlpd") X(Movlps, "movlps") X(Movmskpd, "movmskpd") X(Movmskps, "movmskps") X(Movntdq, "movntdq") \
  X(Movntdqa, "movntdqa") X(Movnti, "movnti") X(Movntpd, "movntpd") X(Movntps, "movntps") X(Movntq, "movntq") X(Movntsd, "movntsd") \
  X(Movntss, "movntss") X(Movq, "movq") X(Movq2dq, "movq2dq") X(Movs, "movs") X(Movsd, "movsd") X(Movshdup, "movshdup") \
  X(Movsldup, "movsldup") X(Movss, "movss") X(Movsx, "movsx") X(Movsxd, "movsxd") X(Movupd, "movupd") X(Movups, "movups") \
  X(Movzx, "movzx") X(Mpsadbw, "mpsadbw") X(Mul, "mul") X(Mulpd, "mulpd") X(Mulps, "mulps") X(Mulsd, "mulsd") X(Mulss, "mulss") \
  X(Mwait, "mwait") X(Mwaitx, "mwaitx") X(Neg, "neg") X(Nop, "nop") X(Not, "not") X(Or, "or") X(Orpd, "orpd") X(Orps, "orps") \
  X(Out, "out") X(Outs, "outs") X(Pabsb, "pabsb") X(Pabsd, "pabsd") X(Pabsw, "pabsw") X(Packssdw, "packssdw") X(Packsswb, "packsswb") \
  X(Packusdw, "packusdw") X(Packuswb, "packuswb") X(Paddb, "paddb") X(Paddd, "paddd") X(Paddq, "paddq") X(Paddsb, "paddsb") \
  X(Paddsw, "paddsw") X(Paddusb, "paddusb") X(Paddusw, "paddusw") X(Paddw, "paddw") X(Palignr, "palignr") X(Pand, "pand") \
  X(Pandn, "pandn") X(Pause, "pause") X(Pavgb, "pavgb") X(Pavgw, "pavgw") X(Pblendvb, "pblendvb") X(Pblendw, "pblendw") \
  X(Pclmulqdq, "pclmulqdq") X(Pcmpeqb, "pcmpeqb") X(Pcmpeqd, "pcmpeqd") X(Pcmpeqq, "pcmpeqq") X(Pcmpeqw, "pcmpeqw") \
  X(Pcmpestri, "pcmpestri") X(Pcmpestrm, "pcmpestrm") X(Pcmpgtb, "pcmpgtb") X(Pcmpgtd, "pcmpgtd") X(Pcmpgtq, "pcmpgtq") \
  X(Pcmpgtw, "pcmpgtw") X(Pcmpistri, "pcmpistri") X(Pcmpistrm, "pcmpistrm") X(Pconfig, "pconfig") X(Pextrb, "pextrb") \
  X(Pextrd, "pextrd") X(Pextrq, "pextrq") X(Pextrw, "pextrw") X(Phaddd, "phaddd") X(Phaddsw, "phaddsw") X(Phaddw, "phaddw") \
  X(Phminposuw, "phminposuw") X(Phsubd, "phsubd") X(Phsubsw, "phsubsw") X(Phsubw, "phsubw") X(Pinsrb, "pinsrb") X(Pinsrd, "pinsrd") \
  X(Pinsrq, "pinsrq") X(Pinsrw, "pinsrw") X(Pmaddubsw, "pmaddubsw") X(Pmaddwd, "pmaddwd") X(Pmaxsb, "pmaxsb") X(Pmaxsd, "pmaxsd") \
  X(Pmaxsw, "pmaxsw") X(Pmaxub, "pmaxub") X(Pmaxud, "pmaxud") X(Pmaxuw, "pmaxuw") X(Pminsb, "pminsb") X(Pminsd, "pminsd") \
  X(Pminsw, "pminsw") X(Pminub, "pminub") X(Pminud, "pminud") X(Pminuw, "pminuw") X(Pmovmskb, "pmovmskb") X(Pmovsxbd, "pmovsxbd") \
  X(Pmovsxbq, "pmovsxbq") X(Pmovsxbw, "pmovsxbw") X(Pmovsxdq, "pmovsxdq") X(Pmovsxwd, "pmovsxwd") X(Pmovsxwq, "pmovsxwq") \
  X(Pmovzxbd, "pmovzxbd") X(Pmovzxbq, "pmovzxbq") X(Pmovzxbw, "pmovzxbw") X(Pmovzxdq, "pmovzxdq") X(Pmovzxwd, "pmovzxwd") \
  X(Pmovzxwq, "pmovzxwq") X(Pmuldq, "pmuldq") X(Pmulhrsw, "pmulhrsw") X(Pmulhuw, "pmulhuw") X(Pmulhw, "pmulhw") X(Pmulld, "pmulld") \
  X(Pmullw, "pmullw") X(Pmuludq, "pmuludq") X(Pop, "pop") X(Popa, "popa") X(Popcnt, "popcnt") X(Popf, "popf") X(Por, "por") \
  X(Prefetch, "prefetch") X(Prefetchnta, "prefetchnta") X(Prefetcht0, "prefetcht0") X(Prefetcht1, "prefetcht1") \
  X(Prefetcht2, "prefetcht2") X(Prefetchw, "prefetchw") X(Prefetchwt1, "prefetchwt1") X(Psadbw, "psadbw") X(Pshufb, "pshufb") \
  X(Pshufd, "pshufd") X(Pshufhw, "pshufhw") X(Pshuflw, "pshuflw") X(Pshufw, "pshufw") X(Psignb, "psignb") X(Psignd, "psignd") \
  X(Psignw, "psignw") X(Pslld, "pslld") X(Pslldq, "pslldq") X(Psllq, "psllq") X(Psllw, "psllw") X(Psmash, "psmash") X(Psrad, "psrad") \
  X(Psraw, "psraw") X(Psrld, "psrld") X(Psrldq, "psrldq") X(Psrlq, "psrlq") X(Psrlw, "psrlw") X(Psubb, "psubb") X(Psubd, "psubd") \
  X(Psubq, "psubq") X(Psubsb, "psubsb") X(Psubsw, "psubsw") X(Psubusb, "psubusb") X(Psubusw, "psubusw") X(Psubw, "psubw") \
  X(Ptest, "ptest") X(Ptwrite, "ptwrite") X(Punpckhbw, "punpckhbw") X(Punpckhdq, "punpckhdq") X(Punpckhqdq, "punpckhqdq") \
  X(Punpckhwd, "punpckhwd") X(Punpcklbw, "punpcklbw") X(Punpckldq, "punpckldq") X(Punpcklqdq, "punpcklqdq") X(Punpcklwd, "punpcklwd") \
  X(Push, "push") X(Pusha, "pusha") X(Pushf, "pushf") X(Pvalidate, "pvalidate") X(Pxor, "pxor") X(Rcl, "rcl") X(Rcpps, "rcpps") \
  X(Rcpss, "rcpss") X(Rcr, "rcr") X(Rdfsbase, "rdfsbase") X(Rdgsbase, "rdgsbase") X(Rdmsr, "rdmsr") X(Rdpid, "rdpid") \
  X(Rdpkru, "rdpkru") X(Rdpmc, "rdpmc") X(Rdpru, "rdpru") X(Rdrand, "rdrand") X(Rdseed, "rdseed") X(Rdtsc, "rdtsc") X(Rdtscp, "rdtscp") \
  X(Ret, "ret") X(RetFar, "retf") X(Rmpadjust, "rmpadjust") X(Rmpupdate, "rmpupdate") X(Rol, "rol") X(Ror, "ror") X(Roundpd, "roundpd") \
  X(Roundps, "roundps") X(Roundsd, "roundsd") X(Roundss, "roundss") X(Rsm, "rsm") X(Rsqrtps, "rsqrtps") X(Rsqrtss, "rsqrtss") \
  X(Sahf, "sahf") X(Salc, "salc") X(Sar, "sar") X(Sbb, "sbb") X(Scas, "scas") X(Serialize, "serialize") X(Setcc, "setcc") \
  X(Sfence, "sfence") X(Sgdt, "sgdt") X(Sha1msg1, "sha1msg1") X(Sha1msg2, "sha1msg2") X(Sha1nexte, "sha1nexte") \
  X(Sha1rnds4, "sha1rnds4") X(Sha256msg1, "sha256msg1") X(Sha256msg2, "sha256msg2") X(Sha256rnds2, "sha256rnds2") X(Shl, "shl") \
  X(Shld, "shld") X(Shr, "shr") X(Shrd, "shrd") X(Shufpd, "shufpd") X(Shufps, "shufps") X(Sidt, "sidt") X(Skinit, "skinit") \
  X(Sldt, "sldt") X(Smsw, "smsw") X(Sqrtpd, "sqrtpd") X(Sqrtps, "sqrtps") X(Sqrtsd, "sqrtsd") X(Sqrtss, "sqrtss") X(Stac, "stac") \
  X(Stc, "stc") X(Std, "std") X(Stgi, "stgi") X(Sti, "sti") X(Stmxcsr, "stmxcsr") X(Stos, "stos") X(Str, "str") X(Sub, "sub") \
  X(Subpd, "subpd") X(Subps, "subps") X(Subsd, "subsd") X(Subss, "subss") X(Swapgs, "swapgs") X(Syscall, "syscall") \
  X(Sysenter, "sysenter") X(Sysexit, "sysexit") X(Sysret, "sysret") X(Test, "test") X(Tlbsync, "tlbsync") X(Tpause, "tpause") \
  X(Tzcnt, "tzcnt") X(Ucomisd, "ucomisd") X(Ucomiss, "ucomiss") X(Ud0, "ud0") X(Ud1, "ud1") X(Ud2, "ud2") X(Umonitor, "umonitor") \
  X(Umwait, "umwait") X(Unpckhpd, "unpckhpd") X(Unpckhps, "unpckhps") X(Unpcklpd, "unpcklpd") X(Unpcklps, "unpcklps") X(Verr, "verr") \
  X(Verw, "verw") X(Vmcall, "vmcall") X(Vmclear, "vmclear") X(Vmfunc, "vmfunc") X(Vmlaunch, "vmlaunch") X(Vmload, "vmload") \
  X(Vmmcall, "vmmcall") X(Vmptrld, "vmptrld") X(Vmptrst, "vmptrst") X(Vmread, "vmread") X(Vmresume, "vmresume") X(Vmrun, "vmrun") \
  X(Vmsave, "vmsave") X(Vmwrite, "vmwrite") X(Vmxoff, "vmxoff") X(Vmxon, "vmxon") X(Wbinvd, "wbinvd") X(Wbnoinvd, "wbnoinvd") \
  X(Wrfsbase, "wrfsbase") X(Wrgsbase, "wrgsbase") X(Wrmsr, "wrmsr") X(Wrpkru, "wrpkru") X(Xabort, "xabort") X(Xadd, "xadd") \
  X(Xbegin, "xbegin") X(Xchg, "xchg") X(Xend, "xend") X(Xgetbv, "xgetbv") X(Xlat, "xlat") X(Xor, "xor") X(Xorpd, "xorpd") \
  X(Xorps, "xorps") X(Xresldtrk, "xresldtrk") X(Xrstor, "xrstor") X(Xrstors, "xrstors") X(Xsave, "xsave") X(Xsavec, "xsavec") \
  X(Xsaveopt, "xsaveopt") X(Xsaves, "xsaves") X(Xsetbv, "xsetbv") X(Xsusldtrk, "xsusldtrk") X(Xtest, "xtest")

enum class Mnemonic : uint16_t {
  kInvalid = 0,
#define VIREO_MNEMONIC(name, text) k##name,
  VIREO_MNEMONICS(VIREO_MNEMONIC)
#undef VIREO_MNEMONIC
  kCount,
};

const char* mnemonic_name(Mnemonic m);

}  // namespace vireo::softkvm
