// SPDX-License-Identifier: Apache-2.0
// The words the decode tables are written with. A row reads: form(opcode | conditions, mnemonic, {operands}, flags, feature, attributes).
// Operands carry the letters of Intel SDM vol 2D, appendix A.2 (E: modrm.rm, G: modrm.reg, H: vvvv, ...) followed by the size: b w d q
// 1-8 bytes, dq 16, v y z operand size, x the vector length, h r e its half, quarter (r) and eighth. Read unless w() (written) or rw().
#pragma once

#include "softkvm/cpu/decode_row.h"

namespace vireo::softkvm::words {

// --- conditions on the encoding ------------------------------------------------------------------------------------------------
constexpr uint32_t NP = 1u << match::kPrefixShift, P66 = 2u << match::kPrefixShift, PF3 = 4u << match::kPrefixShift,
                   PF2 = 8u << match::kPrefixShift;
constexpr uint32_t MEM = 1u << match::kModShift, REG = 2u << match::kModShift;
constexpr uint32_t W0 = 1u << match::kWShift, W1 = 2u << match::kWShift;
constexpr uint32_t L0 = 1u << match::kLengthShift, L1 = 2u << match::kLengthShift, L2 = 4u << match::kLengthShift, L3 = 8u << match::kLengthShift;
constexpr uint32_t L01 = L0 | L1, L12 = L1 | L2, L012 = L0 | L1 | L2;
constexpr uint32_t N64 = 1u << match::kModeShift, O64 = 2u << match::kModeShift;  // not in, only in 64-bit mode
constexpr uint32_t LOW3 = match::kSpread8, CC = match::kSpread16;
constexpr uint32_t R(unsigned n) { return match::kHasReg | n << match::kRegShift; }
constexpr uint32_t RM(unsigned n) { return match::kHasRm | n << match::kRmShift; }

// --- operands -------------------------------------------------------------------------------------------------------------------
struct Operands {
  OperandSpec at[kRowOperands];
};
constexpr OperandSpec w(OperandSpec s) { s.access = OperandAccess::kWrite; return s; }
constexpr OperandSpec rw(OperandSpec s) { s.access = OperandAccess::kReadWrite; return s; }
constexpr OperandSpec na(OperandSpec s) { s.access = OperandAccess::kNone; return s; }

using OC = OperandClass;
#define VIREO_OPERAND(name, cls, size) constexpr OperandSpec name{OC::cls, Size::size}
VIREO_OPERAND(Eb, kE, k1); VIREO_OPERAND(Ew, kE, k2); VIREO_OPERAND(Ed, kE, k4); VIREO_OPERAND(Eq, kE, k8);
VIREO_OPERAND(Ev, kE, kV); VIREO_OPERAND(Ey, kE, kY); VIREO_OPERAND(Ez, kE, kZ);
VIREO_OPERAND(Gb, kG, k1); VIREO_OPERAND(Gw, kG, k2); VIREO_OPERAND(Gd, kG, k4); VIREO_OPERAND(Gq, kG, k8); VIREO_OPERAND(Gv, kG, kV);
VIREO_OPERAND(Gy, kG, kY); VIREO_OPERAND(Gz, kG, kZ); VIREO_OPERAND(Gm, kG, kMode);
VIREO_OPERAND(Rd, kR, k4); VIREO_OPERAND(Rq, kR, k8); VIREO_OPERAND(Rv, kR, kV); VIREO_OPERAND(Ry, kR, kY); VIREO_OPERAND(Rm, kR, kMode);
VIREO_OPERAND(Rb, kR, k1); VIREO_OPERAND(Rw, kR, k2); VIREO_OPERAND(Em, kE, kMode);
VIREO_OPERAND(By, kB, kY);
VIREO_OPERAND(Zb, kZ, k1); VIREO_OPERAND(Zv, kZ, kV); VIREO_OPERAND(Zy, kZ, kY);
VIREO_OPERAND(M, kM, k0); VIREO_OPERAND(Mb, kM, k1); VIREO_OPERAND(Mw, kM, k2); VIREO_OPERAND(Md, kM, k4); VIREO_OPERAND(Mq, kM, k8);
VIREO_OPERAND(Mt, kM, k10); VIREO_OPERAND(Mdq, kM, k16); VIREO_OPERAND(Mqq, kM, k32); VIREO_OPERAND(Mv, kM, kV); VIREO_OPERAND(My, kM, kY);
VIREO_OPERAND(Mp, kM, kP); VIREO_OPERAND(Ma, kM, kA); VIREO_OPERAND(Ms, kM, kS); VIREO_OPERAND(Mx, kM, kX); VIREO_OPERAND(Mh, kM, kHalf);
VIREO_OPERAND(Menv, kM, kEnv); VIREO_OPERAND(Msave, kM, kSave); VIREO_OPERAND(M512, kM, k512); VIREO_OPERAND(M64, kM, k64);
VIREO_OPERAND(Sw, kSegment, k2); VIREO_OPERAND(Cm, kControl, kMode); VIREO_OPERAND(Dm, kDebug, kMode);
VIREO_OPERAND(Pq, kP, k8); VIREO_OPERAND(Pd, kP, k4); VIREO_OPERAND(Qq, kQ, k8); VIREO_OPERAND(Qd, kQ, k4); VIREO_OPERAND(Nq, kN, k8);
VIREO_OPERAND(Vdq, kV, k16); VIREO_OPERAND(Vq, kV, k8); VIREO_OPERAND(Vd, kV, k4); VIREO_OPERAND(Vw, kV, k2); VIREO_OPERAND(Vx, kV, kX);
VIREO_OPERAND(Vqq, kV, k32); VIREO_OPERAND(Vh, kV, kHalf); VIREO_OPERAND(Vr, kV, kQuarter); VIREO_OPERAND(Ve, kV, kEighth);
VIREO_OPERAND(Wdq, kW, k16); VIREO_OPERAND(Wqq, kW, k32); VIREO_OPERAND(Wq, kW, k8); VIREO_OPERAND(Wd, kW, k4); VIREO_OPERAND(Ww, kW, k2);
VIREO_OPERAND(Wb, kW, k1); VIREO_OPERAND(Wx, kW, kX); VIREO_OPERAND(Wh, kW, kHalf); VIREO_OPERAND(Wr, kW, kQuarter); VIREO_OPERAND(We, kW, kEighth);
VIREO_OPERAND(Udq, kU, k16); VIREO_OPERAND(Uq, kU, k8); VIREO_OPERAND(Ud, kU, k4); VIREO_OPERAND(Uw, kU, k2); VIREO_OPERAND(Ux, kU, kX);
VIREO_OPERAND(Hdq, kH, k16); VIREO_OPERAND(Hq, kH, k8); VIREO_OPERAND(Hd, kH, k4); VIREO_OPERAND(Hw, kH, k2); VIREO_OPERAND(Hx, kH, kX);
VIREO_OPERAND(Hqq, kH, k32); VIREO_OPERAND(Hh, kH, kHalf); VIREO_OPERAND(Hr, kH, kQuarter);
VIREO_OPERAND(Lx, kL, kX); VIREO_OPERAND(Ldq, kL, k16);
VIREO_OPERAND(KGb, kMaskG, k1); VIREO_OPERAND(KGw, kMaskG, k2); VIREO_OPERAND(KGd, kMaskG, k4); VIREO_OPERAND(KGq, kMaskG, k8);
VIREO_OPERAND(KEb, kMaskE, k1); VIREO_OPERAND(KEw, kMaskE, k2); VIREO_OPERAND(KEd, kMaskE, k4); VIREO_OPERAND(KEq, kMaskE, k8);
VIREO_OPERAND(KRb, kMaskR, k1); VIREO_OPERAND(KRw, kMaskR, k2); VIREO_OPERAND(KRd, kMaskR, k4); VIREO_OPERAND(KRq, kMaskR, k8);
VIREO_OPERAND(KHb, kMaskH, k1); VIREO_OPERAND(KHw, kMaskH, k2); VIREO_OPERAND(KHd, kMaskH, k4); VIREO_OPERAND(KHq, kMaskH, k8);
VIREO_OPERAND(St0, kSt0, k10); VIREO_OPERAND(Sti, kSti, k10);
VIREO_OPERAND(MVd, kVsib, k4); VIREO_OPERAND(MVq, kVsib, k8);
VIREO_OPERAND(Ob, kMoffs, k1); VIREO_OPERAND(Ov, kMoffs, kV);
VIREO_OPERAND(Xb, kX, k1); VIREO_OPERAND(Xv, kX, kV); VIREO_OPERAND(Xz, kX, kZ);
VIREO_OPERAND(Yb, kY, k1); VIREO_OPERAND(Yv, kY, kV); VIREO_OPERAND(Yz, kY, kZ);
VIREO_OPERAND(I1, kOne, k1);
VIREO_OPERAND(AL, kAccumulator, k1); VIREO_OPERAND(AX, kAccumulator, k2); VIREO_OPERAND(EAX, kAccumulator, k4); VIREO_OPERAND(RAX, kAccumulator, k8);
VIREO_OPERAND(rAX, kAccumulator, kV); VIREO_OPERAND(zAX, kAccumulator, kZ); VIREO_OPERAND(yAX, kAccumulator, kY); VIREO_OPERAND(mAX, kAccumulator, kMode);
#undef VIREO_OPERAND
#define VIREO_FIXED(name, cls, size, reg) constexpr OperandSpec name{OC::cls, Size::size, OperandAccess::kRead, reg}
VIREO_FIXED(AH, kFixed, k1, 4);  // marked high by the decoder: legacy byte register 4
VIREO_FIXED(CL, kFixed, k1, 1); VIREO_FIXED(DX, kFixed, k2, 2);
VIREO_FIXED(ECX, kFixed, k4, 1); VIREO_FIXED(RCX, kFixed, k8, 1); VIREO_FIXED(mCX, kFixed, kMode, 1); VIREO_FIXED(mDX, kFixed, kMode, 2);
VIREO_FIXED(EDX, kFixed, k4, 2); VIREO_FIXED(rDX, kFixed, kV, 2); VIREO_FIXED(yDX, kFixed, kY, 2); VIREO_FIXED(RDX, kFixed, k8, 2);
VIREO_FIXED(EBX, kFixed, k4, 3); VIREO_FIXED(RBX, kFixed, k8, 3); VIREO_FIXED(R11, kFixed, k8, 11);
VIREO_FIXED(sES, kFixedSegment, k2, 0); VIREO_FIXED(sCS, kFixedSegment, k2, 1); VIREO_FIXED(sSS, kFixedSegment, k2, 2);
VIREO_FIXED(sDS, kFixedSegment, k2, 3); VIREO_FIXED(sFS, kFixedSegment, k2, 4); VIREO_FIXED(sGS, kFixedSegment, k2, 5);
VIREO_FIXED(XMM0, kFixedVector, k16, 0);
#undef VIREO_FIXED
// The immediates: what follows the modrm bytes. The value goes into the spec's `reg`.
constexpr OperandSpec immediate(ImmediateKind k, Size s, OperandClass c = OC::kImmediate) { return {c, s, OperandAccess::kRead, uint8_t(k)}; }
constexpr OperandSpec Ib = immediate(ImmediateKind::kByte, Size::k1);
constexpr OperandSpec Ibs = immediate(ImmediateKind::kSignedByte, Size::k1);
constexpr OperandSpec Iw = immediate(ImmediateKind::kWord, Size::k2);
constexpr OperandSpec Iz = immediate(ImmediateKind::kZ, Size::kZ);
constexpr OperandSpec Iv = immediate(ImmediateKind::kV, Size::kV);
constexpr OperandSpec Iwb = immediate(ImmediateKind::kEnter, Size::k2);
constexpr OperandSpec Ibb = immediate(ImmediateKind::kBytes, Size::k1);
constexpr OperandSpec Jb = immediate(ImmediateKind::kRelativeByte, Size::k1, OC::kRelative);
constexpr OperandSpec Jz = immediate(ImmediateKind::kRelativeZ, Size::kZ, OC::kRelative);
constexpr OperandSpec Ap = immediate(ImmediateKind::kFar, Size::kP, OC::kFar);

// --- flags ------------------------------------------------------------------------------------------------------------------------
enum FlagWord : uint8_t {
  fNone, fArith, fAdc, fLogic, fInc, fRol, fRcl, fRolMaybe, fRclMaybe, fShiftMaybe, fBt, fZF, fReadCF, fCmc, fWriteCF, fDF, fReadDF, fStrCmp,
  fDaa, fAaa, fLahf, fSahf, fReadAll, fWriteAll, fAdox, fIF, fReadZF, fReadCFZF, fReadPF, fInt, fAC, fCount,
};
constexpr uint32_t kAllFlags = kStatusFlags | kTF | kIF | kDF | kIOPL | kNT | kRF | kVM | kAC | kVIF | kVIP | kID;
constexpr FlagEffect kFlagEffects[fCount] = {
    /*fNone*/ {},
    /*fArith*/ {0, kStatusFlags, 0},
    /*fAdc*/ {kCF, kStatusFlags, 0},
    /*fLogic*/ {0, kStatusFlags, 0},  // AF is undefined
    /*fInc*/ {0, kStatusFlags & ~kCF, 0},
    /*fRol*/ {0, kCF | kOF, 0},
    /*fRcl*/ {kCF, kCF | kOF, 0},
    /*fRolMaybe*/ {0, 0, kCF | kOF},
    /*fRclMaybe*/ {kCF, 0, kCF | kOF},
    /*fShiftMaybe*/ {0, 0, kStatusFlags},
    /*fBt*/ {0, kStatusFlags & ~kZF, 0},  // OF SF AF PF are undefined, ZF stays
    /*fZF*/ {0, kZF, 0},
    /*fReadCF*/ {kCF, 0, 0},
    /*fCmc*/ {kCF, kCF, 0},
    /*fWriteCF*/ {0, kCF, 0},
    /*fDF*/ {0, kDF, 0},
    /*fReadDF*/ {kDF, 0, 0},
    /*fStrCmp*/ {kDF, kStatusFlags, 0},
    /*fDaa*/ {kCF | kAF, kStatusFlags, 0},
    /*fAaa*/ {kAF, kStatusFlags, 0},
    /*fLahf*/ {kSF | kZF | kAF | kPF | kCF, 0, 0},
    /*fSahf*/ {0, kSF | kZF | kAF | kPF | kCF, 0},
    /*fReadAll*/ {kAllFlags, 0, 0},
    /*fWriteAll*/ {0, kAllFlags & ~(kVM | kRF | kVIP | kVIF | kIOPL | kIF), kIOPL | kIF | kRF | kVIF | kVIP | kVM},
    /*fAdox*/ {kOF, kOF, 0},
    /*fIF*/ {0, 0, kIF | kVIF},
    /*fReadZF*/ {kZF, 0, 0},
    /*fReadCFZF*/ {kCF | kZF, 0, 0},
    /*fReadPF*/ {kPF, 0, 0},
    /*fInt*/ {kAllFlags, 0, kTF | kIF | kNT | kRF | kVM | kAC},
    /*fAC*/ {0, kAC, 0},
};

// --- rows -------------------------------------------------------------------------------------------------------------------------
using F = Feature;
constexpr void put(Row& r, FlagWord f) { r.flags = f; }
constexpr void put(Row& r, Feature f) { r.feature = f; }
constexpr void put(Row& r, Attribute a) { r.attributes |= a; }
constexpr void put(Row& r, uint32_t a) { r.attributes |= a; }

constexpr bool in_modrm(OperandClass c) {
  switch (c) {
    case OC::kE: case OC::kM: case OC::kR: case OC::kG: case OC::kSegment: case OC::kControl: case OC::kDebug: case OC::kP: case OC::kQ: case OC::kN:
    case OC::kV: case OC::kW: case OC::kU: case OC::kMaskG: case OC::kMaskE: case OC::kMaskR: case OC::kSti: case OC::kVsib:
      return true;
    default: return false;
  }
}

template <class... X>
constexpr Row row(Form form, uint32_t m, Mnemonic mnemonic, const Operands& ops, X... extra) {
  Row r{.match = m, .mnemonic = mnemonic, .form = form};
  (put(r, extra), ...);
  const bool mod_given = (m >> match::kModShift & 3) != 0;
  if (m & (match::kHasReg | match::kHasRm) || mod_given) r.attributes |= kModrm;
  for (const OperandSpec& s : ops.at) {
    if (s.cls == OC::kNone) break;
    r.operands[r.operand_count++] = s;
    if (in_modrm(s.cls)) r.attributes |= kModrm;
    if (!mod_given && (s.cls == OC::kM || s.cls == OC::kVsib)) r.match |= MEM;
    if (!mod_given && !(r.attributes & kModIgnored) && (s.cls == OC::kR || s.cls == OC::kN || s.cls == OC::kU || s.cls == OC::kMaskR)) r.match |= REG;
    if (s.cls == OC::kB || s.cls == OC::kH || s.cls == OC::kMaskH) r.attributes |= kUsesVvvv;
    if (s.cls == OC::kL) r.attributes |= kIs4;
    if (s.cls == OC::kImmediate || s.cls == OC::kRelative || s.cls == OC::kFar) r.immediate = ImmediateKind(s.reg);
    if (s.cls == OC::kMoffs) r.immediate = ImmediateKind::kMoffs;
    if (s.cls == OC::kVsib) r.attributes |= kNo16Mode;
    if (s.cls == OC::kSegment || s.cls == OC::kControl || s.cls == OC::kDebug) r.attributes |= kLegalRegister;
  }
  return r;
}
#define VIREO_FORM(name, form)                                                                    \
  template <class... X>                                                                           \
  constexpr Row name(uint32_t m, Mnemonic mnemonic, const Operands& ops, X... extra) {            \
    return row(Form::form, m, mnemonic, ops, extra...);                                           \
  }
VIREO_FORM(plain, kPlain)
VIREO_FORM(stack, kStack)
VIREO_FORM(branch, kBranch)
VIREO_FORM(str, kString)
VIREO_FORM(special, kSpecial)
VIREO_FORM(sys, kSystem)
#undef VIREO_FORM

}  // namespace vireo::softkvm::words
