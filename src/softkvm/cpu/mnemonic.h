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
  X(Aeskeygenassist, "aeskeygenassist") X(And, "and") X(Andn, "andn") X(Andnpd, "andnpd") X(Andnps, "andnps") X(Andpd, "andpd") \
  X(Andps, "andps") X(Arpl, "arpl") X(Bextr, "bextr") X(Blendpd, "blendpd") X(Blendps, "blendps") X(Blendvpd, "blendvpd") \
  X(Blendvps, "blendvps") X(Blsi, "blsi") X(Blsmsk, "blsmsk") X(Blsr, "blsr") X(Bound, "bound") X(Bsf, "bsf") X(Bsr, "bsr") \
  X(Bswap, "bswap") X(Bt, "bt") X(Btc, "btc") X(Btr, "btr") X(Bts, "bts") X(Bzhi, "bzhi") X(Call, "call") X(CallFar, "call far") \
  X(Cbw, "cbw") X(Clac, "clac") X(Clc, "clc") X(Cld, "cld") X(Cldemote, "cldemote") X(Clflush, "clflush") X(Clflushopt, "clflushopt") \
  X(Clgi, "clgi") X(Cli, "cli") X(Clts, "clts") X(Clwb, "clwb") X(Clzero, "clzero") X(Cmc, "cmc") X(Cmovcc, "cmovcc") X(Cmp, "cmp") \
  X(Cmppd, "cmppd") X(Cmpps, "cmpps") X(Cmps, "cmps") X(Cmpsd, "cmpsd") X(Cmpss, "cmpss") X(Cmpxchg, "cmpxchg") \
  X(Cmpxchg16b, "cmpxchg16b") X(Cmpxchg8b, "cmpxchg8b") X(Comisd, "comisd") X(Comiss, "comiss") X(Cpuid, "cpuid") X(Crc32, "crc32") \
  X(Cvtdq2pd, "cvtdq2pd") X(Cvtdq2ps, "cvtdq2ps") X(Cvtpd2dq, "cvtpd2dq") X(Cvtpd2pi, "cvtpd2pi") X(Cvtpd2ps, "cvtpd2ps") \
  X(Cvtpi2pd, "cvtpi2pd") X(Cvtpi2ps, "cvtpi2ps") X(Cvtps2dq, "cvtps2dq") X(Cvtps2pd, "cvtps2pd") X(Cvtps2pi, "cvtps2pi") \
  X(Cvtsd2si, "cvtsd2si") X(Cvtsd2ss, "cvtsd2ss") X(Cvtsi2sd, "cvtsi2sd") X(Cvtsi2ss, "cvtsi2ss") X(Cvtss2sd, "cvtss2sd") \
  X(Cvtss2si, "cvtss2si") X(Cvttpd2dq, "cvttpd2dq") X(Cvttpd2pi, "cvttpd2pi") X(Cvttps2dq, "cvttps2dq") X(Cvttps2pi, "cvttps2pi") \
  X(Cvttsd2si, "cvttsd2si") X(Cvttss2si, "cvttss2si") X(Cwd, "cwd") X(Daa, "daa") X(Das, "das") X(Dec, "dec") X(Div, "div") \
  X(Divpd, "divpd") X(Divps, "divps") X(Divsd, "divsd") X(Divss, "divss") X(Dppd, "dppd") X(Dpps, "dpps") X(Emms, "emms") \
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
  X(Invvpid, "invvpid") X(Iret, "iret") X(Jcc, "jcc") X(Jcxz, "jcxz") X(Jmp, "jmp") X(JmpFar, "jmp far") X(Kaddb, "kaddb") \
  X(Kaddd, "kaddd") X(Kaddq, "kaddq") X(Kaddw, "kaddw") X(Kandb, "kandb") X(Kandd, "kandd") X(Kandnb, "kandnb") X(Kandnd, "kandnd") \
  X(Kandnq, "kandnq") X(Kandnw, "kandnw") X(Kandq, "kandq") X(Kandw, "kandw") X(Kmovb, "kmovb") X(Kmovd, "kmovd") X(Kmovq, "kmovq") \
  X(Kmovw, "kmovw") X(Knotb, "knotb") X(Knotd, "knotd") X(Knotq, "knotq") X(Knotw, "knotw") X(Korb, "korb") X(Kord, "kord") \
  X(Korq, "korq") X(Kortestb, "kortestb") X(Kortestd, "kortestd") X(Kortestq, "kortestq") X(Kortestw, "kortestw") X(Korw, "korw") \
  X(Kshiftlb, "kshiftlb") X(Kshiftld, "kshiftld") X(Kshiftlq, "kshiftlq") X(Kshiftlw, "kshiftlw") X(Kshiftrb, "kshiftrb") \
  X(Kshiftrd, "kshiftrd") X(Kshiftrq, "kshiftrq") X(Kshiftrw, "kshiftrw") X(Ktestb, "ktestb") X(Ktestd, "ktestd") X(Ktestq, "ktestq") \
  X(Ktestw, "ktestw") X(Kunpckbw, "kunpckbw") X(Kunpckdq, "kunpckdq") X(Kunpckwd, "kunpckwd") X(Kxnorb, "kxnorb") X(Kxnord, "kxnord") \
  X(Kxnorq, "kxnorq") X(Kxnorw, "kxnorw") X(Kxorb, "kxorb") X(Kxord, "kxord") X(Kxorq, "kxorq") X(Kxorw, "kxorw") X(Lahf, "lahf") \
  X(Lar, "lar") X(Lddqu, "lddqu") X(Ldmxcsr, "ldmxcsr") X(Lds, "lds") X(Lea, "lea") X(Leave, "leave") X(Les, "les") X(Lfence, "lfence") \
  X(Lfs, "lfs") X(Lgdt, "lgdt") X(Lgs, "lgs") X(Lidt, "lidt") X(Lldt, "lldt") X(Lmsw, "lmsw") X(Lods, "lods") X(Loop, "loop") \
  X(Loope, "loope") X(Loopne, "loopne") X(Lsl, "lsl") X(Lss, "lss") X(Ltr, "ltr") X(Lzcnt, "lzcnt") X(Maskmovdqu, "maskmovdqu") \
  X(Maskmovq, "maskmovq") X(Maxpd, "maxpd") X(Maxps, "maxps") X(Maxsd, "maxsd") X(Maxss, "maxss") X(Mcommit, "mcommit") \
  X(Mfence, "mfence") X(Minpd, "minpd") X(Minps, "minps") X(Minsd, "minsd") X(Minss, "minss") X(Monitor, "monitor") \
  X(Monitorx, "monitorx") X(Mov, "mov") X(Movapd, "movapd") X(Movaps, "movaps") X(Movbe, "movbe") X(Movd, "movd") X(Movddup, "movddup") \
  X(Movdir64b, "movdir64b") X(Movdiri, "movdiri") X(Movdq2q, "movdq2q") X(Movdqa, "movdqa") X(Movdqu, "movdqu") X(Movhlps, "movhlps") \
  X(Movhpd, "movhpd") X(Movhps, "movhps") X(Movlhps, "movlhps") X(Movlpd, "movlpd") X(Movlps, "movlps") X(Movmskpd, "movmskpd") \
  X(Movmskps, "movmskps") X(Movntdq, "movntdq") X(Movntdqa, "movntdqa") X(Movnti, "movnti") X(Movntpd, "movntpd") X(Movntps, "movntps") \
  X(Movntq, "movntq") X(Movntsd, "movntsd") X(Movntss, "movntss") X(Movq, "movq") X(Movq2dq, "movq2dq") X(Movs, "movs") \
  X(Movsd, "movsd") X(Movshdup, "movshdup") X(Movsldup, "movsldup") X(Movss, "movss") X(Movsx, "movsx") X(Movsxd, "movsxd") \
  X(Movupd, "movupd") X(Movups, "movups") X(Movzx, "movzx") X(Mpsadbw, "mpsadbw") X(Mul, "mul") X(Mulpd, "mulpd") X(Mulps, "mulps") \
  X(Mulsd, "mulsd") X(Mulss, "mulss") X(Mulx, "mulx") X(Mwait, "mwait") X(Mwaitx, "mwaitx") X(Neg, "neg") X(Nop, "nop") X(Not, "not") \
  X(Or, "or") X(Orpd, "orpd") X(Orps, "orps") X(Out, "out") X(Outs, "outs") X(Pabsb, "pabsb") X(Pabsd, "pabsd") X(Pabsw, "pabsw") \
  X(Packssdw, "packssdw") X(Packsswb, "packsswb") X(Packusdw, "packusdw") X(Packuswb, "packuswb") X(Paddb, "paddb") X(Paddd, "paddd") \
  X(Paddq, "paddq") X(Paddsb, "paddsb") X(Paddsw, "paddsw") X(Paddusb, "paddusb") X(Paddusw, "paddusw") X(Paddw, "paddw") \
  X(Palignr, "palignr") X(Pand, "pand") X(Pandn, "pandn") X(Pause, "pause") X(Pavgb, "pavgb") X(Pavgw, "pavgw") X(Pblendvb, "pblendvb") \
  X(Pblendw, "pblendw") X(Pclmulqdq, "pclmulqdq") X(Pcmpeqb, "pcmpeqb") X(Pcmpeqd, "pcmpeqd") X(Pcmpeqq, "pcmpeqq") \
  X(Pcmpeqw, "pcmpeqw") X(Pcmpestri, "pcmpestri") X(Pcmpestrm, "pcmpestrm") X(Pcmpgtb, "pcmpgtb") X(Pcmpgtd, "pcmpgtd") \
  X(Pcmpgtq, "pcmpgtq") X(Pcmpgtw, "pcmpgtw") X(Pcmpistri, "pcmpistri") X(Pcmpistrm, "pcmpistrm") X(Pconfig, "pconfig") X(Pdep, "pdep") \
  X(Pext, "pext") X(Pextrb, "pextrb") X(Pextrd, "pextrd") X(Pextrq, "pextrq") X(Pextrw, "pextrw") X(Phaddd, "phaddd") \
  X(Phaddsw, "phaddsw") X(Phaddw, "phaddw") X(Phminposuw, "phminposuw") X(Phsubd, "phsubd") X(Phsubsw, "phsubsw") X(Phsubw, "phsubw") \
  X(Pinsrb, "pinsrb") X(Pinsrd, "pinsrd") X(Pinsrq, "pinsrq") X(Pinsrw, "pinsrw") X(Pmaddubsw, "pmaddubsw") X(Pmaddwd, "pmaddwd") \
  X(Pmaxsb, "pmaxsb") X(Pmaxsd, "pmaxsd") X(Pmaxsw, "pmaxsw") X(Pmaxub, "pmaxub") X(Pmaxud, "pmaxud") X(Pmaxuw, "pmaxuw") \
  X(Pminsb, "pminsb") X(Pminsd, "pminsd") X(Pminsw, "pminsw") X(Pminub, "pminub") X(Pminud, "pminud") X(Pminuw, "pminuw") \
  X(Pmovmskb, "pmovmskb") X(Pmovsxbd, "pmovsxbd") X(Pmovsxbq, "pmovsxbq") X(Pmovsxbw, "pmovsxbw") X(Pmovsxdq, "pmovsxdq") \
  X(Pmovsxwd, "pmovsxwd") X(Pmovsxwq, "pmovsxwq") X(Pmovzxbd, "pmovzxbd") X(Pmovzxbq, "pmovzxbq") X(Pmovzxbw, "pmovzxbw") \
  X(Pmovzxdq, "pmovzxdq") X(Pmovzxwd, "pmovzxwd") X(Pmovzxwq, "pmovzxwq") X(Pmuldq, "pmuldq") X(Pmulhrsw, "pmulhrsw") \
  X(Pmulhuw, "pmulhuw") X(Pmulhw, "pmulhw") X(Pmulld, "pmulld") X(Pmullw, "pmullw") X(Pmuludq, "pmuludq") X(Pop, "pop") X(Popa, "popa") \
  X(Popcnt, "popcnt") X(Popf, "popf") X(Por, "por") X(Prefetch, "prefetch") X(Prefetchnta, "prefetchnta") X(Prefetcht0, "prefetcht0") \
  X(Prefetcht1, "prefetcht1") X(Prefetcht2, "prefetcht2") X(Prefetchw, "prefetchw") X(Prefetchwt1, "prefetchwt1") X(Psadbw, "psadbw") \
  X(Pshufb, "pshufb") X(Pshufd, "pshufd") X(Pshufhw, "pshufhw") X(Pshuflw, "pshuflw") X(Pshufw, "pshufw") X(Psignb, "psignb") \
  X(Psignd, "psignd") X(Psignw, "psignw") X(Pslld, "pslld") X(Pslldq, "pslldq") X(Psllq, "psllq") X(Psllw, "psllw") X(Psmash, "psmash") \
  X(Psrad, "psrad") X(Psraw, "psraw") X(Psrld, "psrld") X(Psrldq, "psrldq") X(Psrlq, "psrlq") X(Psrlw, "psrlw") X(Psubb, "psubb") \
  X(Psubd, "psubd") X(Psubq, "psubq") X(Psubsb, "psubsb") X(Psubsw, "psubsw") X(Psubusb, "psubusb") X(Psubusw, "psubusw") \
  X(Psubw, "psubw") X(Ptest, "ptest") X(Ptwrite, "ptwrite") X(Punpckhbw, "punpckhbw") X(Punpckhdq, "punpckhdq") \
  X(Punpckhqdq, "punpckhqdq") X(Punpckhwd, "punpckhwd") X(Punpcklbw, "punpcklbw") X(Punpckldq, "punpckldq") X(Punpcklqdq, "punpcklqdq") \
  X(Punpcklwd, "punpcklwd") X(Push, "push") X(Pusha, "pusha") X(Pushf, "pushf") X(Pvalidate, "pvalidate") X(Pxor, "pxor") X(Rcl, "rcl") \
  X(Rcpps, "rcpps") X(Rcpss, "rcpss") X(Rcr, "rcr") X(Rdfsbase, "rdfsbase") X(Rdgsbase, "rdgsbase") X(Rdmsr, "rdmsr") X(Rdpid, "rdpid") \
  X(Rdpkru, "rdpkru") X(Rdpmc, "rdpmc") X(Rdpru, "rdpru") X(Rdrand, "rdrand") X(Rdseed, "rdseed") X(Rdtsc, "rdtsc") X(Rdtscp, "rdtscp") \
  X(Ret, "ret") X(RetFar, "retf") X(Rmpadjust, "rmpadjust") X(Rmpupdate, "rmpupdate") X(Rol, "rol") X(Ror, "ror") X(Rorx, "rorx") \
  X(Roundpd, "roundpd") X(Roundps, "roundps") X(Roundsd, "roundsd") X(Roundss, "roundss") X(Rsm, "rsm") X(Rsqrtps, "rsqrtps") \
  X(Rsqrtss, "rsqrtss") X(Sahf, "sahf") X(Salc, "salc") X(Sar, "sar") X(Sarx, "sarx") X(Sbb, "sbb") X(Scas, "scas") \
  X(Serialize, "serialize") X(Setcc, "setcc") X(Sfence, "sfence") X(Sgdt, "sgdt") X(Sha1msg1, "sha1msg1") X(Sha1msg2, "sha1msg2") \
  X(Sha1nexte, "sha1nexte") X(Sha1rnds4, "sha1rnds4") X(Sha256msg1, "sha256msg1") X(Sha256msg2, "sha256msg2") \
  X(Sha256rnds2, "sha256rnds2") X(Shl, "shl") X(Shld, "shld") X(Shlx, "shlx") X(Shr, "shr") X(Shrd, "shrd") X(Shrx, "shrx") \
  X(Shufpd, "shufpd") X(Shufps, "shufps") X(Sidt, "sidt") X(Skinit, "skinit") X(Sldt, "sldt") X(Smsw, "smsw") X(Sqrtpd, "sqrtpd") \
  X(Sqrtps, "sqrtps") X(Sqrtsd, "sqrtsd") X(Sqrtss, "sqrtss") X(Stac, "stac") X(Stc, "stc") X(Std, "std") X(Stgi, "stgi") X(Sti, "sti") \
  X(Stmxcsr, "stmxcsr") X(Stos, "stos") X(Str, "str") X(Sub, "sub") X(Subpd, "subpd") X(Subps, "subps") X(Subsd, "subsd") \
  X(Subss, "subss") X(Swapgs, "swapgs") X(Syscall, "syscall") X(Sysenter, "sysenter") X(Sysexit, "sysexit") X(Sysret, "sysret") \
  X(Test, "test") X(Tlbsync, "tlbsync") X(Tpause, "tpause") X(Tzcnt, "tzcnt") X(Ucomisd, "ucomisd") X(Ucomiss, "ucomiss") X(Ud0, "ud0") \
  X(Ud1, "ud1") X(Ud2, "ud2") X(Umonitor, "umonitor") X(Umwait, "umwait") X(Unpckhpd, "unpckhpd") X(Unpckhps, "unpckhps") \
  X(Unpcklpd, "unpcklpd") X(Unpcklps, "unpcklps") X(Vaddpd, "vaddpd") X(Vaddph, "vaddph") X(Vaddps, "vaddps") X(Vaddsd, "vaddsd") \
  X(Vaddsh, "vaddsh") X(Vaddss, "vaddss") X(Vaddsubpd, "vaddsubpd") X(Vaddsubps, "vaddsubps") X(Vaesdec, "vaesdec") \
  X(Vaesdeclast, "vaesdeclast") X(Vaesenc, "vaesenc") X(Vaesenclast, "vaesenclast") X(Vaesimc, "vaesimc") \
  X(Vaeskeygenassist, "vaeskeygenassist") X(Valignd, "valignd") X(Valignq, "valignq") X(Vandnpd, "vandnpd") X(Vandnps, "vandnps") \
  X(Vandpd, "vandpd") X(Vandps, "vandps") X(Vblendmpd, "vblendmpd") X(Vblendmps, "vblendmps") X(Vblendpd, "vblendpd") \
  X(Vblendps, "vblendps") X(Vblendvpd, "vblendvpd") X(Vblendvps, "vblendvps") X(Vbroadcastf128, "vbroadcastf128") \
  X(Vbroadcastf32x2, "vbroadcastf32x2") X(Vbroadcastf32x4, "vbroadcastf32x4") X(Vbroadcastf32x8, "vbroadcastf32x8") \
  X(Vbroadcastf64x2, "vbroadcastf64x2") X(Vbroadcastf64x4, "vbroadcastf64x4") X(Vbroadcasti128, "vbroadcasti128") \
  X(Vbroadcasti32x2, "vbroadcasti32x2") X(Vbroadcasti32x4, "vbroadcasti32x4") X(Vbroadcasti32x8, "vbroadcasti32x8") \
  X(Vbroadcasti64x2, "vbroadcasti64x2") X(Vbroadcasti64x4, "vbroadcasti64x4") X(Vbroadcastsd, "vbroadcastsd") \
  X(Vbroadcastss, "vbroadcastss") X(Vcmppd, "vcmppd") X(Vcmpph, "vcmpph") X(Vcmpps, "vcmpps") X(Vcmpsd, "vcmpsd") X(Vcmpsh, "vcmpsh") \
  X(Vcmpss, "vcmpss") X(Vcomisd, "vcomisd") X(Vcomish, "vcomish") X(Vcomiss, "vcomiss") X(Vcompresspd, "vcompresspd") \
  X(Vcompressps, "vcompressps") X(Vcvtdq2pd, "vcvtdq2pd") X(Vcvtdq2ph, "vcvtdq2ph") X(Vcvtdq2ps, "vcvtdq2ps") \
  X(Vcvtne2ps2bf16, "vcvtne2ps2bf16") X(Vcvtneps2bf16, "vcvtneps2bf16") X(Vcvtpd2dq, "vcvtpd2dq") X(Vcvtpd2ph, "vcvtpd2ph") \
  X(Vcvtpd2ps, "vcvtpd2ps") X(Vcvtpd2qq, "vcvtpd2qq") X(Vcvtpd2udq, "vcvtpd2udq") X(Vcvtpd2uqq, "vcvtpd2uqq") X(Vcvtph2dq, "vcvtph2dq") \
  X(Vcvtph2pd, "vcvtph2pd") X(Vcvtph2ps, "vcvtph2ps") X(Vcvtph2psx, "vcvtph2psx") X(Vcvtph2qq, "vcvtph2qq") X(Vcvtph2udq, "vcvtph2udq") \
  X(Vcvtph2uqq, "vcvtph2uqq") X(Vcvtph2uw, "vcvtph2uw") X(Vcvtph2w, "vcvtph2w") X(Vcvtps2dq, "vcvtps2dq") X(Vcvtps2pd, "vcvtps2pd") \
  X(Vcvtps2ph, "vcvtps2ph") X(Vcvtps2phx, "vcvtps2phx") X(Vcvtps2qq, "vcvtps2qq") X(Vcvtps2udq, "vcvtps2udq") \
  X(Vcvtps2uqq, "vcvtps2uqq") X(Vcvtqq2pd, "vcvtqq2pd") X(Vcvtqq2ph, "vcvtqq2ph") X(Vcvtqq2ps, "vcvtqq2ps") X(Vcvtsd2sh, "vcvtsd2sh") \
  X(Vcvtsd2si, "vcvtsd2si") X(Vcvtsd2ss, "vcvtsd2ss") X(Vcvtsd2usi, "vcvtsd2usi") X(Vcvtsh2sd, "vcvtsh2sd") X(Vcvtsh2si, "vcvtsh2si") \
  X(Vcvtsh2ss, "vcvtsh2ss") X(Vcvtsh2usi, "vcvtsh2usi") X(Vcvtsi2sd, "vcvtsi2sd") X(Vcvtsi2sh, "vcvtsi2sh") X(Vcvtsi2ss, "vcvtsi2ss") \
  X(Vcvtss2sd, "vcvtss2sd") X(Vcvtss2sh, "vcvtss2sh") X(Vcvtss2si, "vcvtss2si") X(Vcvtss2usi, "vcvtss2usi") X(Vcvttpd2dq, "vcvttpd2dq") \
  X(Vcvttpd2qq, "vcvttpd2qq") X(Vcvttpd2udq, "vcvttpd2udq") X(Vcvttpd2uqq, "vcvttpd2uqq") X(Vcvttph2dq, "vcvttph2dq") \
  X(Vcvttph2qq, "vcvttph2qq") X(Vcvttph2udq, "vcvttph2udq") X(Vcvttph2uqq, "vcvttph2uqq") X(Vcvttph2uw, "vcvttph2uw") \
  X(Vcvttph2w, "vcvttph2w") X(Vcvttps2dq, "vcvttps2dq") X(Vcvttps2qq, "vcvttps2qq") X(Vcvttps2udq, "vcvttps2udq") \
  X(Vcvttps2uqq, "vcvttps2uqq") X(Vcvttsd2si, "vcvttsd2si") X(Vcvttsd2usi, "vcvttsd2usi") X(Vcvttsh2si, "vcvttsh2si") \
  X(Vcvttsh2usi, "vcvttsh2usi") X(Vcvttss2si, "vcvttss2si") X(Vcvttss2usi, "vcvttss2usi") X(Vcvtudq2pd, "vcvtudq2pd") \
  X(Vcvtudq2ph, "vcvtudq2ph") X(Vcvtudq2ps, "vcvtudq2ps") X(Vcvtuqq2pd, "vcvtuqq2pd") X(Vcvtuqq2ph, "vcvtuqq2ph") \
  X(Vcvtuqq2ps, "vcvtuqq2ps") X(Vcvtusi2sd, "vcvtusi2sd") X(Vcvtusi2sh, "vcvtusi2sh") X(Vcvtusi2ss, "vcvtusi2ss") \
  X(Vcvtuw2ph, "vcvtuw2ph") X(Vcvtw2ph, "vcvtw2ph") X(Vdbpsadbw, "vdbpsadbw") X(Vdivpd, "vdivpd") X(Vdivph, "vdivph") \
  X(Vdivps, "vdivps") X(Vdivsd, "vdivsd") X(Vdivsh, "vdivsh") X(Vdivss, "vdivss") X(Vdpbf16ps, "vdpbf16ps") X(Vdppd, "vdppd") \
  X(Vdpps, "vdpps") X(Verr, "verr") X(Verw, "verw") X(Vexpandpd, "vexpandpd") X(Vexpandps, "vexpandps") X(Vextractf128, "vextractf128") \
  X(Vextractf32x4, "vextractf32x4") X(Vextractf32x8, "vextractf32x8") X(Vextractf64x2, "vextractf64x2") \
  X(Vextractf64x4, "vextractf64x4") X(Vextracti128, "vextracti128") X(Vextracti32x4, "vextracti32x4") X(Vextracti32x8, "vextracti32x8") \
  X(Vextracti64x2, "vextracti64x2") X(Vextracti64x4, "vextracti64x4") X(Vextractps, "vextractps") X(Vfcmaddcph, "vfcmaddcph") \
  X(Vfcmaddcsh, "vfcmaddcsh") X(Vfcmulcph, "vfcmulcph") X(Vfcmulcsh, "vfcmulcsh") X(Vfixupimmpd, "vfixupimmpd") \
  X(Vfixupimmps, "vfixupimmps") X(Vfixupimmsd, "vfixupimmsd") X(Vfixupimmss, "vfixupimmss") X(Vfmadd132pd, "vfmadd132pd") \
  X(Vfmadd132ph, "vfmadd132ph") X(Vfmadd132ps, "vfmadd132ps") X(Vfmadd132sd, "vfmadd132sd") X(Vfmadd132sh, "vfmadd132sh") \
  X(Vfmadd132ss, "vfmadd132ss") X(Vfmadd213pd, "vfmadd213pd") X(Vfmadd213ph, "vfmadd213ph") X(Vfmadd213ps, "vfmadd213ps") \
  X(Vfmadd213sd, "vfmadd213sd") X(Vfmadd213sh, "vfmadd213sh") X(Vfmadd213ss, "vfmadd213ss") X(Vfmadd231pd, "vfmadd231pd") \
  X(Vfmadd231ph, "vfmadd231ph") X(Vfmadd231ps, "vfmadd231ps") X(Vfmadd231sd, "vfmadd231sd") X(Vfmadd231sh, "vfmadd231sh") \
  X(Vfmadd231ss, "vfmadd231ss") X(Vfmaddcph, "vfmaddcph") X(Vfmaddcsh, "vfmaddcsh") X(Vfmaddsub132pd, "vfmaddsub132pd") \
  X(Vfmaddsub132ph, "vfmaddsub132ph") X(Vfmaddsub132ps, "vfmaddsub132ps") X(Vfmaddsub213pd, "vfmaddsub213pd") \
  X(Vfmaddsub213ph, "vfmaddsub213ph") X(Vfmaddsub213ps, "vfmaddsub213ps") X(Vfmaddsub231pd, "vfmaddsub231pd") \
  X(Vfmaddsub231ph, "vfmaddsub231ph") X(Vfmaddsub231ps, "vfmaddsub231ps") X(Vfmsub132pd, "vfmsub132pd") X(Vfmsub132ph, "vfmsub132ph") \
  X(Vfmsub132ps, "vfmsub132ps") X(Vfmsub132sd, "vfmsub132sd") X(Vfmsub132sh, "vfmsub132sh") X(Vfmsub132ss, "vfmsub132ss") \
  X(Vfmsub213pd, "vfmsub213pd") X(Vfmsub213ph, "vfmsub213ph") X(Vfmsub213ps, "vfmsub213ps") X(Vfmsub213sd, "vfmsub213sd") \
  X(Vfmsub213sh, "vfmsub213sh") X(Vfmsub213ss, "vfmsub213ss") X(Vfmsub231pd, "vfmsub231pd") X(Vfmsub231ph, "vfmsub231ph") \
  X(Vfmsub231ps, "vfmsub231ps") X(Vfmsub231sd, "vfmsub231sd") X(Vfmsub231sh, "vfmsub231sh") X(Vfmsub231ss, "vfmsub231ss") \
  X(Vfmsubadd132pd, "vfmsubadd132pd") X(Vfmsubadd132ph, "vfmsubadd132ph") X(Vfmsubadd132ps, "vfmsubadd132ps") \
  X(Vfmsubadd213pd, "vfmsubadd213pd") X(Vfmsubadd213ph, "vfmsubadd213ph") X(Vfmsubadd213ps, "vfmsubadd213ps") \
  X(Vfmsubadd231pd, "vfmsubadd231pd") X(Vfmsubadd231ph, "vfmsubadd231ph") X(Vfmsubadd231ps, "vfmsubadd231ps") X(Vfmulcph, "vfmulcph") \
  X(Vfmulcsh, "vfmulcsh") X(Vfnmadd132pd, "vfnmadd132pd") X(Vfnmadd132ph, "vfnmadd132ph") X(Vfnmadd132ps, "vfnmadd132ps") \
  X(Vfnmadd132sd, "vfnmadd132sd") X(Vfnmadd132sh, "vfnmadd132sh") X(Vfnmadd132ss, "vfnmadd132ss") X(Vfnmadd213pd, "vfnmadd213pd") \
  X(Vfnmadd213ph, "vfnmadd213ph") X(Vfnmadd213ps, "vfnmadd213ps") X(Vfnmadd213sd, "vfnmadd213sd") X(Vfnmadd213sh, "vfnmadd213sh") \
  X(Vfnmadd213ss, "vfnmadd213ss") X(Vfnmadd231pd, "vfnmadd231pd") X(Vfnmadd231ph, "vfnmadd231ph") X(Vfnmadd231ps, "vfnmadd231ps") \
  X(Vfnmadd231sd, "vfnmadd231sd") X(Vfnmadd231sh, "vfnmadd231sh") X(Vfnmadd231ss, "vfnmadd231ss") X(Vfnmsub132pd, "vfnmsub132pd") \
  X(Vfnmsub132ph, "vfnmsub132ph") X(Vfnmsub132ps, "vfnmsub132ps") X(Vfnmsub132sd, "vfnmsub132sd") X(Vfnmsub132sh, "vfnmsub132sh") \
  X(Vfnmsub132ss, "vfnmsub132ss") X(Vfnmsub213pd, "vfnmsub213pd") X(Vfnmsub213ph, "vfnmsub213ph") X(Vfnmsub213ps, "vfnmsub213ps") \
  X(Vfnmsub213sd, "vfnmsub213sd") X(Vfnmsub213sh, "vfnmsub213sh") X(Vfnmsub213ss, "vfnmsub213ss") X(Vfnmsub231pd, "vfnmsub231pd") \
  X(Vfnmsub231ph, "vfnmsub231ph") X(Vfnmsub231ps, "vfnmsub231ps") X(Vfnmsub231sd, "vfnmsub231sd") X(Vfnmsub231sh, "vfnmsub231sh") \
  X(Vfnmsub231ss, "vfnmsub231ss") X(Vfpclasspd, "vfpclasspd") X(Vfpclassph, "vfpclassph") X(Vfpclassps, "vfpclassps") \
  X(Vfpclasssd, "vfpclasssd") X(Vfpclasssh, "vfpclasssh") X(Vfpclassss, "vfpclassss") X(Vgatherdpd, "vgatherdpd") \
  X(Vgatherdps, "vgatherdps") X(Vgatherqpd, "vgatherqpd") X(Vgatherqps, "vgatherqps") X(Vgetexppd, "vgetexppd") \
  X(Vgetexpph, "vgetexpph") X(Vgetexpps, "vgetexpps") X(Vgetexpsd, "vgetexpsd") X(Vgetexpsh, "vgetexpsh") X(Vgetexpss, "vgetexpss") \
  X(Vgetmantpd, "vgetmantpd") X(Vgetmantph, "vgetmantph") X(Vgetmantps, "vgetmantps") X(Vgetmantsd, "vgetmantsd") \
  X(Vgetmantsh, "vgetmantsh") X(Vgetmantss, "vgetmantss") X(Vgf2p8affineinvqb, "vgf2p8affineinvqb") X(Vgf2p8affineqb, "vgf2p8affineqb") \
  X(Vgf2p8mulb, "vgf2p8mulb") X(Vhaddpd, "vhaddpd") X(Vhaddps, "vhaddps") X(Vhsubpd, "vhsubpd") X(Vhsubps, "vhsubps") \
  X(Vinsertf128, "vinsertf128") X(Vinsertf32x4, "vinsertf32x4") X(Vinsertf32x8, "vinsertf32x8") X(Vinsertf64x2, "vinsertf64x2") \
  X(Vinsertf64x4, "vinsertf64x4") X(Vinserti128, "vinserti128") X(Vinserti32x4, "vinserti32x4") X(Vinserti32x8, "vinserti32x8") \
  X(Vinserti64x2, "vinserti64x2") X(Vinserti64x4, "vinserti64x4") X(Vinsertps, "vinsertps") X(Vlddqu, "vlddqu") X(Vldmxcsr, "vldmxcsr") \
  X(Vmaskmovdqu, "vmaskmovdqu") X(Vmaskmovpd, "vmaskmovpd") X(Vmaskmovps, "vmaskmovps") X(Vmaxpd, "vmaxpd") X(Vmaxph, "vmaxph") \
  X(Vmaxps, "vmaxps") X(Vmaxsd, "vmaxsd") X(Vmaxsh, "vmaxsh") X(Vmaxss, "vmaxss") X(Vmcall, "vmcall") X(Vmclear, "vmclear") \
  X(Vmfunc, "vmfunc") X(Vminpd, "vminpd") X(Vminph, "vminph") X(Vminps, "vminps") X(Vminsd, "vminsd") X(Vminsh, "vminsh") \
  X(Vminss, "vminss") X(Vmlaunch, "vmlaunch") X(Vmload, "vmload") X(Vmmcall, "vmmcall") X(Vmovapd, "vmovapd") X(Vmovaps, "vmovaps") \
  X(Vmovd, "vmovd") X(Vmovddup, "vmovddup") X(Vmovdqa, "vmovdqa") X(Vmovdqa32, "vmovdqa32") X(Vmovdqa64, "vmovdqa64") \
  X(Vmovdqu, "vmovdqu") X(Vmovdqu16, "vmovdqu16") X(Vmovdqu32, "vmovdqu32") X(Vmovdqu64, "vmovdqu64") X(Vmovdqu8, "vmovdqu8") \
  X(Vmovhlps, "vmovhlps") X(Vmovhpd, "vmovhpd") X(Vmovhps, "vmovhps") X(Vmovlhps, "vmovlhps") X(Vmovlpd, "vmovlpd") \
  X(Vmovlps, "vmovlps") X(Vmovmskpd, "vmovmskpd") X(Vmovmskps, "vmovmskps") X(Vmovntdq, "vmovntdq") X(Vmovntdqa, "vmovntdqa") \
  X(Vmovntpd, "vmovntpd") X(Vmovntps, "vmovntps") X(Vmovq, "vmovq") X(Vmovsd, "vmovsd") X(Vmovsh, "vmovsh") X(Vmovshdup, "vmovshdup") \
  X(Vmovsldup, "vmovsldup") X(Vmovss, "vmovss") X(Vmovupd, "vmovupd") X(Vmovups, "vmovups") X(Vmovw, "vmovw") X(Vmpsadbw, "vmpsadbw") \
  X(Vmptrld, "vmptrld") X(Vmptrst, "vmptrst") X(Vmread, "vmread") X(Vmresume, "vmresume") X(Vmrun, "vmrun") X(Vmsave, "vmsave") \
  X(Vmulpd, "vmulpd") X(Vmulph, "vmulph") X(Vmulps, "vmulps") X(Vmulsd, "vmulsd") X(Vmulsh, "vmulsh") X(Vmulss, "vmulss") \
  X(Vmwrite, "vmwrite") X(Vmxoff, "vmxoff") X(Vmxon, "vmxon") X(Vorpd, "vorpd") X(Vorps, "vorps") X(Vp2intersectd, "vp2intersectd") \
  X(Vp2intersectq, "vp2intersectq") X(Vpabsb, "vpabsb") X(Vpabsd, "vpabsd") X(Vpabsq, "vpabsq") X(Vpabsw, "vpabsw") \
  X(Vpackssdw, "vpackssdw") X(Vpacksswb, "vpacksswb") X(Vpackusdw, "vpackusdw") X(Vpackuswb, "vpackuswb") X(Vpaddb, "vpaddb") \
  X(Vpaddd, "vpaddd") X(Vpaddq, "vpaddq") X(Vpaddsb, "vpaddsb") X(Vpaddsw, "vpaddsw") X(Vpaddusb, "vpaddusb") X(Vpaddusw, "vpaddusw") \
  X(Vpaddw, "vpaddw") X(Vpalignr, "vpalignr") X(Vpand, "vpand") X(Vpandd, "vpandd") X(Vpandn, "vpandn") X(Vpandnd, "vpandnd") \
  X(Vpandnq, "vpandnq") X(Vpandq, "vpandq") X(Vpavgb, "vpavgb") X(Vpavgw, "vpavgw") X(Vpblendd, "vpblendd") X(Vpblendmb, "vpblendmb") \
  X(Vpblendmd, "vpblendmd") X(Vpblendmq, "vpblendmq") X(Vpblendmw, "vpblendmw") X(Vpblendvb, "vpblendvb") X(Vpblendw, "vpblendw") \
  X(Vpbroadcastb, "vpbroadcastb") X(Vpbroadcastd, "vpbroadcastd") X(Vpbroadcastmb2q, "vpbroadcastmb2q") \
  X(Vpbroadcastmw2d, "vpbroadcastmw2d") X(Vpbroadcastq, "vpbroadcastq") X(Vpbroadcastw, "vpbroadcastw") X(Vpclmulqdq, "vpclmulqdq") \
  X(Vpcmpb, "vpcmpb") X(Vpcmpd, "vpcmpd") X(Vpcmpeqb, "vpcmpeqb") X(Vpcmpeqd, "vpcmpeqd") X(Vpcmpeqq, "vpcmpeqq") \
  X(Vpcmpeqw, "vpcmpeqw") X(Vpcmpestri, "vpcmpestri") X(Vpcmpestrm, "vpcmpestrm") X(Vpcmpgtb, "vpcmpgtb") X(Vpcmpgtd, "vpcmpgtd") \
  X(Vpcmpgtq, "vpcmpgtq") X(Vpcmpgtw, "vpcmpgtw") X(Vpcmpistri, "vpcmpistri") X(Vpcmpistrm, "vpcmpistrm") X(Vpcmpq, "vpcmpq") \
  X(Vpcmpub, "vpcmpub") X(Vpcmpud, "vpcmpud") X(Vpcmpuq, "vpcmpuq") X(Vpcmpuw, "vpcmpuw") X(Vpcmpw, "vpcmpw") \
  X(Vpcompressb, "vpcompressb") X(Vpcompressd, "vpcompressd") X(Vpcompressq, "vpcompressq") X(Vpcompressw, "vpcompressw") \
  X(Vpconflictd, "vpconflictd") X(Vpconflictq, "vpconflictq") X(Vpdpbusd, "vpdpbusd") X(Vpdpbusds, "vpdpbusds") X(Vpdpwssd, "vpdpwssd") \
  X(Vpdpwssds, "vpdpwssds") X(Vperm2f128, "vperm2f128") X(Vperm2i128, "vperm2i128") X(Vpermb, "vpermb") X(Vpermd, "vpermd") \
  X(Vpermi2b, "vpermi2b") X(Vpermi2d, "vpermi2d") X(Vpermi2pd, "vpermi2pd") X(Vpermi2ps, "vpermi2ps") X(Vpermi2q, "vpermi2q") \
  X(Vpermi2w, "vpermi2w") X(Vpermilpd, "vpermilpd") X(Vpermilps, "vpermilps") X(Vpermpd, "vpermpd") X(Vpermps, "vpermps") \
  X(Vpermq, "vpermq") X(Vpermt2b, "vpermt2b") X(Vpermt2d, "vpermt2d") X(Vpermt2pd, "vpermt2pd") X(Vpermt2ps, "vpermt2ps") \
  X(Vpermt2q, "vpermt2q") X(Vpermt2w, "vpermt2w") X(Vpermw, "vpermw") X(Vpexpandb, "vpexpandb") X(Vpexpandd, "vpexpandd") \
  X(Vpexpandq, "vpexpandq") X(Vpexpandw, "vpexpandw") X(Vpextrb, "vpextrb") X(Vpextrd, "vpextrd") X(Vpextrq, "vpextrq") \
  X(Vpextrw, "vpextrw") X(Vpgatherdd, "vpgatherdd") X(Vpgatherdq, "vpgatherdq") X(Vpgatherqd, "vpgatherqd") X(Vpgatherqq, "vpgatherqq") \
  X(Vphaddd, "vphaddd") X(Vphaddsw, "vphaddsw") X(Vphaddw, "vphaddw") X(Vphminposuw, "vphminposuw") X(Vphsubd, "vphsubd") \
  X(Vphsubsw, "vphsubsw") X(Vphsubw, "vphsubw") X(Vpinsrb, "vpinsrb") X(Vpinsrd, "vpinsrd") X(Vpinsrq, "vpinsrq") X(Vpinsrw, "vpinsrw") \
  X(Vplzcntd, "vplzcntd") X(Vplzcntq, "vplzcntq") X(Vpmadd52huq, "vpmadd52huq") X(Vpmadd52luq, "vpmadd52luq") \
  X(Vpmaddubsw, "vpmaddubsw") X(Vpmaddwd, "vpmaddwd") X(Vpmaskmovd, "vpmaskmovd") X(Vpmaskmovq, "vpmaskmovq") X(Vpmaxsb, "vpmaxsb") \
  X(Vpmaxsd, "vpmaxsd") X(Vpmaxsq, "vpmaxsq") X(Vpmaxsw, "vpmaxsw") X(Vpmaxub, "vpmaxub") X(Vpmaxud, "vpmaxud") X(Vpmaxuq, "vpmaxuq") \
  X(Vpmaxuw, "vpmaxuw") X(Vpminsb, "vpminsb") X(Vpminsd, "vpminsd") X(Vpminsq, "vpminsq") X(Vpminsw, "vpminsw") X(Vpminub, "vpminub") \
  X(Vpminud, "vpminud") X(Vpminuq, "vpminuq") X(Vpminuw, "vpminuw") X(Vpmovb2m, "vpmovb2m") X(Vpmovd2m, "vpmovd2m") \
  X(Vpmovdb, "vpmovdb") X(Vpmovdw, "vpmovdw") X(Vpmovm2b, "vpmovm2b") X(Vpmovm2d, "vpmovm2d") X(Vpmovm2q, "vpmovm2q") \
  X(Vpmovm2w, "vpmovm2w") X(Vpmovmskb, "vpmovmskb") X(Vpmovq2m, "vpmovq2m") X(Vpmovqb, "vpmovqb") X(Vpmovqd, "vpmovqd") \
  X(Vpmovqw, "vpmovqw") X(Vpmovsdb, "vpmovsdb") X(Vpmovsdw, "vpmovsdw") X(Vpmovsqb, "vpmovsqb") X(Vpmovsqd, "vpmovsqd") \
  X(Vpmovsqw, "vpmovsqw") X(Vpmovswb, "vpmovswb") X(Vpmovsxbd, "vpmovsxbd") X(Vpmovsxbq, "vpmovsxbq") X(Vpmovsxbw, "vpmovsxbw") \
  X(Vpmovsxdq, "vpmovsxdq") X(Vpmovsxwd, "vpmovsxwd") X(Vpmovsxwq, "vpmovsxwq") X(Vpmovusdb, "vpmovusdb") X(Vpmovusdw, "vpmovusdw") \
  X(Vpmovusqb, "vpmovusqb") X(Vpmovusqd, "vpmovusqd") X(Vpmovusqw, "vpmovusqw") X(Vpmovuswb, "vpmovuswb") X(Vpmovw2m, "vpmovw2m") \
  X(Vpmovwb, "vpmovwb") X(Vpmovzxbd, "vpmovzxbd") X(Vpmovzxbq, "vpmovzxbq") X(Vpmovzxbw, "vpmovzxbw") X(Vpmovzxdq, "vpmovzxdq") \
  X(Vpmovzxwd, "vpmovzxwd") X(Vpmovzxwq, "vpmovzxwq") X(Vpmuldq, "vpmuldq") X(Vpmulhrsw, "vpmulhrsw") X(Vpmulhuw, "vpmulhuw") \
  X(Vpmulhw, "vpmulhw") X(Vpmulld, "vpmulld") X(Vpmullq, "vpmullq") X(Vpmullw, "vpmullw") X(Vpmultishiftqb, "vpmultishiftqb") \
  X(Vpmuludq, "vpmuludq") X(Vpopcntb, "vpopcntb") X(Vpopcntd, "vpopcntd") X(Vpopcntq, "vpopcntq") X(Vpopcntw, "vpopcntw") \
  X(Vpor, "vpor") X(Vpord, "vpord") X(Vporq, "vporq") X(Vprold, "vprold") X(Vprolq, "vprolq") X(Vprolvd, "vprolvd") \
  X(Vprolvq, "vprolvq") X(Vprord, "vprord") X(Vprorq, "vprorq") X(Vprorvd, "vprorvd") X(Vprorvq, "vprorvq") X(Vpsadbw, "vpsadbw") \
  X(Vpscatterdd, "vpscatterdd") X(Vpscatterdq, "vpscatterdq") X(Vpscatterqd, "vpscatterqd") X(Vpscatterqq, "vpscatterqq") \
  X(Vpshldd, "vpshldd") X(Vpshldq, "vpshldq") X(Vpshldvd, "vpshldvd") X(Vpshldvq, "vpshldvq") X(Vpshldvw, "vpshldvw") \
  X(Vpshldw, "vpshldw") X(Vpshrdd, "vpshrdd") X(Vpshrdq, "vpshrdq") X(Vpshrdvd, "vpshrdvd") X(Vpshrdvq, "vpshrdvq") \
  X(Vpshrdvw, "vpshrdvw") X(Vpshrdw, "vpshrdw") X(Vpshufb, "vpshufb") X(Vpshufbitqmb, "vpshufbitqmb") X(Vpshufd, "vpshufd") \
  X(Vpshufhw, "vpshufhw") X(Vpshuflw, "vpshuflw") X(Vpsignb, "vpsignb") X(Vpsignd, "vpsignd") X(Vpsignw, "vpsignw") X(Vpslld, "vpslld") \
  X(Vpslldq, "vpslldq") X(Vpsllq, "vpsllq") X(Vpsllvd, "vpsllvd") X(Vpsllvq, "vpsllvq") X(Vpsllvw, "vpsllvw") X(Vpsllw, "vpsllw") \
  X(Vpsrad, "vpsrad") X(Vpsraq, "vpsraq") X(Vpsravd, "vpsravd") X(Vpsravq, "vpsravq") X(Vpsravw, "vpsravw") X(Vpsraw, "vpsraw") \
  X(Vpsrld, "vpsrld") X(Vpsrldq, "vpsrldq") X(Vpsrlq, "vpsrlq") X(Vpsrlvd, "vpsrlvd") X(Vpsrlvq, "vpsrlvq") X(Vpsrlvw, "vpsrlvw") \
  X(Vpsrlw, "vpsrlw") X(Vpsubb, "vpsubb") X(Vpsubd, "vpsubd") X(Vpsubq, "vpsubq") X(Vpsubsb, "vpsubsb") X(Vpsubsw, "vpsubsw") \
  X(Vpsubusb, "vpsubusb") X(Vpsubusw, "vpsubusw") X(Vpsubw, "vpsubw") X(Vpternlogd, "vpternlogd") X(Vpternlogq, "vpternlogq") \
  X(Vptest, "vptest") X(Vptestmb, "vptestmb") X(Vptestmd, "vptestmd") X(Vptestmq, "vptestmq") X(Vptestmw, "vptestmw") \
  X(Vptestnmb, "vptestnmb") X(Vptestnmd, "vptestnmd") X(Vptestnmq, "vptestnmq") X(Vptestnmw, "vptestnmw") X(Vpunpckhbw, "vpunpckhbw") \
  X(Vpunpckhdq, "vpunpckhdq") X(Vpunpckhqdq, "vpunpckhqdq") X(Vpunpckhwd, "vpunpckhwd") X(Vpunpcklbw, "vpunpcklbw") \
  X(Vpunpckldq, "vpunpckldq") X(Vpunpcklqdq, "vpunpcklqdq") X(Vpunpcklwd, "vpunpcklwd") X(Vpxor, "vpxor") X(Vpxord, "vpxord") \
  X(Vpxorq, "vpxorq") X(Vrangepd, "vrangepd") X(Vrangeps, "vrangeps") X(Vrangesd, "vrangesd") X(Vrangess, "vrangess") \
  X(Vrcp14pd, "vrcp14pd") X(Vrcp14ps, "vrcp14ps") X(Vrcp14sd, "vrcp14sd") X(Vrcp14ss, "vrcp14ss") X(Vrcpph, "vrcpph") \
  X(Vrcpps, "vrcpps") X(Vrcpsh, "vrcpsh") X(Vrcpss, "vrcpss") X(Vreducepd, "vreducepd") X(Vreduceph, "vreduceph") \
  X(Vreduceps, "vreduceps") X(Vreducesd, "vreducesd") X(Vreducesh, "vreducesh") X(Vreducess, "vreducess") X(Vrndscalepd, "vrndscalepd") \
  X(Vrndscaleph, "vrndscaleph") X(Vrndscaleps, "vrndscaleps") X(Vrndscalesd, "vrndscalesd") X(Vrndscalesh, "vrndscalesh") \
  X(Vrndscaless, "vrndscaless") X(Vroundpd, "vroundpd") X(Vroundps, "vroundps") X(Vroundsd, "vroundsd") X(Vroundss, "vroundss") \
  X(Vrsqrt14pd, "vrsqrt14pd") X(Vrsqrt14ps, "vrsqrt14ps") X(Vrsqrt14sd, "vrsqrt14sd") X(Vrsqrt14ss, "vrsqrt14ss") \
  X(Vrsqrtph, "vrsqrtph") X(Vrsqrtps, "vrsqrtps") X(Vrsqrtsh, "vrsqrtsh") X(Vrsqrtss, "vrsqrtss") X(Vscalefpd, "vscalefpd") \
  X(Vscalefph, "vscalefph") X(Vscalefps, "vscalefps") X(Vscalefsd, "vscalefsd") X(Vscalefsh, "vscalefsh") X(Vscalefss, "vscalefss") \
  X(Vscatterdpd, "vscatterdpd") X(Vscatterdps, "vscatterdps") X(Vscatterqpd, "vscatterqpd") X(Vscatterqps, "vscatterqps") \
  X(Vshuff32x4, "vshuff32x4") X(Vshuff64x2, "vshuff64x2") X(Vshufi32x4, "vshufi32x4") X(Vshufi64x2, "vshufi64x2") X(Vshufpd, "vshufpd") \
  X(Vshufps, "vshufps") X(Vsqrtpd, "vsqrtpd") X(Vsqrtph, "vsqrtph") X(Vsqrtps, "vsqrtps") X(Vsqrtsd, "vsqrtsd") X(Vsqrtsh, "vsqrtsh") \
  X(Vsqrtss, "vsqrtss") X(Vstmxcsr, "vstmxcsr") X(Vsubpd, "vsubpd") X(Vsubph, "vsubph") X(Vsubps, "vsubps") X(Vsubsd, "vsubsd") \
  X(Vsubsh, "vsubsh") X(Vsubss, "vsubss") X(Vtestpd, "vtestpd") X(Vtestps, "vtestps") X(Vucomisd, "vucomisd") X(Vucomish, "vucomish") \
  X(Vucomiss, "vucomiss") X(Vunpckhpd, "vunpckhpd") X(Vunpckhps, "vunpckhps") X(Vunpcklpd, "vunpcklpd") X(Vunpcklps, "vunpcklps") \
  X(Vxorpd, "vxorpd") X(Vxorps, "vxorps") X(Vzeroall, "vzeroall") X(Vzeroupper, "vzeroupper") X(Wbinvd, "wbinvd") \
  X(Wbnoinvd, "wbnoinvd") X(Wrfsbase, "wrfsbase") X(Wrgsbase, "wrgsbase") X(Wrmsr, "wrmsr") X(Wrpkru, "wrpkru") X(Xabort, "xabort") \
  X(Xadd, "xadd") X(Xbegin, "xbegin") X(Xchg, "xchg") X(Xend, "xend") X(Xgetbv, "xgetbv") X(Xlat, "xlat") X(Xor, "xor") \
  X(Xorpd, "xorpd") X(Xorps, "xorps") X(Xresldtrk, "xresldtrk") X(Xrstor, "xrstor") X(Xrstors, "xrstors") X(Xsave, "xsave") \
  X(Xsavec, "xsavec") X(Xsaveopt, "xsaveopt") X(Xsaves, "xsaves") X(Xsetbv, "xsetbv") X(Xsusldtrk, "xsusldtrk") X(Xtest, "xtest")

enum class Mnemonic : uint16_t {
  kInvalid = 0,
#define VIREO_MNEMONIC(name, text) k##name,
  VIREO_MNEMONICS(VIREO_MNEMONIC)
#undef VIREO_MNEMONIC
  kCount,
};

const char* mnemonic_name(Mnemonic m);

}  // namespace vireo::softkvm
