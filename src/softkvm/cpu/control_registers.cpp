// SPDX-License-Identifier: Apache-2.0
// Control registers, XCR0, PKRU, and the instructions that drop translations.
// Spec: Intel SDM vol 2, MOV CR, CLTS, LMSW, SMSW, XSETBV, INVLPG, INVPCID, WRPKRU; vol 3, 2.5, 4.4.1 (PDPTEs), 4.10.4 (what is
// invalidated), 9.8.5 (IA-32e mode), 13.3 (XCR0).
#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

namespace {

constexpr uint64_t kCr0Defined = kCr0Pe | kCr0Mp | kCr0Em | kCr0Ts | kCr0Et | kCr0Ne | kCr0Wp | kCr0Am | kCr0Nw | kCr0Cd | kCr0Pg;
constexpr uint64_t kCr3NoFlush = 1ull << 63;

// PAE paging without IA-32e mode: CR3 points at four entries that the CPU holds.
bool pae_active(uint64_t cr0, uint64_t cr4, uint64_t efer) { return (cr0 & kCr0Pg) && (cr4 & kCr4Pae) && !(efer & kEferLma); }

Outcome load_pdptes(VcpuState& vcpu, uint64_t cr3) {
  uint64_t pdpte[4];
  if (!read_physical(vcpu, cr3 & 0xffffffe0, pdpte, sizeof pdpte)) return vcpu.raise(kGP, 0);
  uint64_t reserved = 0x1e6 | (~0ull << vcpu.physical_bits);
  for (uint64_t entry : pdpte)
    if ((entry & 1) && (entry & reserved)) return vcpu.raise(kGP, 0);
  for (unsigned i = 0; i < 4; i++) vcpu.pdpte[i] = pdpte[i];
  return Outcome::kNext;
}

// The CR4 bits this guest's CPUID gives it.
uint64_t cr4_defined(const VcpuState& vcpu) {
  struct Gate {
    uint64_t bits;
    unsigned feature;
  };
  static constexpr Gate kGates[] = {
      {kCr4Vme | kCr4Pvi, kCpuidVme}, {kCr4Tsd, kCpuidTsc}, {kCr4De, kCpuidDe}, {kCr4Pse, kCpuidPse}, {kCr4Pae, kCpuidPae},
      {kCr4Mce, kCpuidMce}, {kCr4Pge, kCpuidPge}, {kCr4Osfxsr, kCpuidFxsr}, {kCr4Osxmmexcpt, kCpuidSse}, {kCr4Umip, kCpuidUmip},
      {kCr4La57, kCpuidLa57}, {kCr4Fsgsbase, kCpuidFsgsbase}, {kCr4Pcide, kCpuidPcid}, {kCr4Osxsave, kCpuidXsave}, {kCr4Smep, kCpuidSmep},
      {kCr4Smap, kCpuidSmap}, {kCr4Pke, kCpuidPku}, {kCr4Pks, kCpuidPks},
  };
  // PCE: no counters to read, but KVM has always let it be set.
  uint64_t defined = kCr4Pce;
  for (const Gate& g : kGates)
    if (has(vcpu, g.feature)) defined |= g.bits;
  return defined;
}

Outcome write_cr4(VcpuState& vcpu, uint64_t value) {
  if (value & ~cr4_defined(vcpu)) return vcpu.raise(kGP, 0);
  uint64_t changed = value ^ vcpu.cr4;
  if (vcpu.long_mode_active()) {
    if (!(value & kCr4Pae) || (changed & kCr4La57)) return vcpu.raise(kGP, 0);
  }
  if (changed & value & kCr4Pcide)
    if (!vcpu.long_mode_active() || (vcpu.cr3 & 0xfff)) return vcpu.raise(kGP, 0);
  if (pae_active(vcpu.cr0, value, vcpu.efer) && (changed & (kCr4Pae | kCr4Pge | kCr4Pse | kCr4Smep))) STEP(load_pdptes(vcpu, vcpu.cr3));
  vcpu.cr4 = value;
  vcpu.linear_bits = value & kCr4La57 ? 57 : 48;
  constexpr uint64_t kTranslates = kCr4Pse | kCr4Pae | kCr4Pcide | kCr4Smep | kCr4Smap | kCr4La57 | kCr4Pke | kCr4Pks;
  if (changed & (kTranslates | kCr4Pge)) flush_tlb(vcpu, false, !(changed & kTranslates));
  update_mode(vcpu);
  return Outcome::kNext;
}

}  // namespace

bool valid_cr0(const VcpuState&, uint64_t value) {
  if (value >> 32) return false;
  if ((value & kCr0Pg) && !(value & kCr0Pe)) return false;
  return !(value & kCr0Nw) || (value & kCr0Cd);
}

bool valid_cr4(const VcpuState& vcpu, uint64_t value) { return !(value & ~cr4_defined(vcpu)); }

bool valid_efer(const VcpuState& vcpu, uint64_t value) {
  uint64_t defined = kEferLma;
  if (has(vcpu, kCpuidSyscall)) defined |= kEferSce;
  if (has(vcpu, kCpuidLongMode)) defined |= kEferLme;
  if (has(vcpu, kCpuidNx)) defined |= kEferNx;
  if (has(vcpu, kCpuidSvm)) defined |= kEferSvme;
  if (has(vcpu, kCpuidFfxsr)) defined |= kEferFfxsr;
  return !(value & ~defined);
}

bool valid_xcr0(const VcpuState& vcpu, uint64_t value) {
  if (!(value & 1) || !vcpu.cpuid || (value & ~vcpu.cpuid->xcr0_supported)) return false;
  if ((value & 4) && !(value & 2)) return false;
  uint64_t avx512 = value & 0xe0;
  if (avx512 && (avx512 != 0xe0 || !(value & 4))) return false;
  uint64_t mpx = value & 0x18, amx = value & 0x60000;
  return (!mpx || mpx == 0x18) && (!amx || amx == 0x60000);
}

Outcome write_cr3(VcpuState& vcpu, uint64_t value) {
  bool no_flush = false;
  if (vcpu.cr4 & kCr4Pcide) {
    no_flush = value & kCr3NoFlush;
    value &= ~kCr3NoFlush;
  }
  if (vcpu.long_mode_active()) {
    if (value >> vcpu.physical_bits) return vcpu.raise(kGP, 0);
  } else {
    value &= 0xffffffff;
    if (pae_active(vcpu.cr0, vcpu.cr4, vcpu.efer)) STEP(load_pdptes(vcpu, value));
  }
  vcpu.cr3 = value;
  switch_address_space(vcpu, vcpu.cr4 & kCr4Pcide && !no_flush);
  update_mode(vcpu);
  return Outcome::kNext;
}

Outcome write_cr0(VcpuState& vcpu, uint64_t value) {
  if (!valid_cr0(vcpu, value)) return vcpu.raise(kGP, 0);
  value = (value & kCr0Defined) | kCr0Et;
  uint64_t changed = value ^ vcpu.cr0;
  uint64_t efer = vcpu.efer;
  if (changed & kCr0Pg) {
    if (value & kCr0Pg) {
      if (efer & kEferLme) {
        // A 16-bit TSS cannot be that of IA-32e mode (SDM vol 3, 9.8.5.3).
        bool tss16 = !vcpu.tr.unusable && (vcpu.tr.type() == kTss16Busy || vcpu.tr.type() == kTss16Available);
        if (!(vcpu.cr4 & kCr4Pae) || vcpu.segment[kCS].long_mode() || tss16) return vcpu.raise(kGP, 0);
        efer |= kEferLma;
      }
    } else {
      if (vcpu.in_64bit() || (vcpu.cr4 & kCr4Pcide)) return vcpu.raise(kGP, 0);
      efer &= ~kEferLma;
    }
  }
  if (pae_active(value, vcpu.cr4, efer) && (changed & (kCr0Pg | kCr0Cd | kCr0Nw))) STEP(load_pdptes(vcpu, vcpu.cr3));
  vcpu.cr0 = value;
  vcpu.efer = efer;
  if (changed & kCr0Pe) {
    vcpu.cpl = 0;
    // Leaving protected mode keeps the caches; nothing is unusable in real mode.
    if (!(value & kCr0Pe))
      for (Segment& s : vcpu.segment) s.unusable = false;
  }
  if (changed & (kCr0Pg | kCr0Pe | kCr0Wp)) flush_tlb(vcpu, false);
  update_mode(vcpu);
  return Outcome::kNext;
}

Outcome move_from_control(VcpuState& vcpu, const Insn& insn) {
  unsigned cr = insn.reg & 15;
  if (cr != 0 && cr != 2 && cr != 3 && cr != 4 && cr != 8) return vcpu.raise(kUD);
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  uint64_t value = 0;
  switch (cr) {
    case 0: value = vcpu.cr0; break;
    case 2: value = vcpu.cr2; break;
    case 3: value = vcpu.cr3; break;
    case 4: value = vcpu.cr4; break;
    default: value = read_cr8(vcpu); break;
  }
  write_gpr(vcpu, insn.rm & 15, vcpu.in_64bit() ? 8 : 4, value);
  return Outcome::kNext;
}

Outcome move_to_control(VcpuState& vcpu, const Insn& insn) {
  unsigned cr = insn.reg & 15;
  if (cr != 0 && cr != 2 && cr != 3 && cr != 4 && cr != 8) return vcpu.raise(kUD);
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  uint64_t value = read_gpr(vcpu, insn.rm & 15, vcpu.in_64bit() ? 8 : 4);
  switch (cr) {
    case 0: STEP(write_cr0(vcpu, value)); break;
    case 2: vcpu.cr2 = value; return Outcome::kNext;
    case 3: STEP(write_cr3(vcpu, value)); break;
    case 4: STEP(write_cr4(vcpu, value)); break;
    default:
      if (value > 15) return vcpu.raise(kGP, 0);
      write_cr8(vcpu, value);
      return Outcome::kNext;
  }
  return jump_behind(vcpu, insn);
}

Outcome clts(VcpuState& vcpu, const Insn& insn) {
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  uint32_t mode = vcpu.mode;
  vcpu.cr0 &= ~kCr0Ts;
  update_mode(vcpu);
  return finish(vcpu, insn, mode);
}

Outcome smsw(VcpuState& vcpu, const Insn& insn) {
  if (vcpu.cpl > 0 && (vcpu.cr4 & kCr4Umip)) return vcpu.raise(kGP, 0);
  if (!register_form(insn)) return write_memory_operand(vcpu, insn, 2, vcpu.cr0 & 0xffff);
  write_gpr(vcpu, insn.rm & 15, insn.operand_size, vcpu.cr0);
  return Outcome::kNext;
}

Outcome lmsw(VcpuState& vcpu, const Insn& insn) {
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  uint64_t value;
  STEP(read_rm(vcpu, insn, 2, value));
  uint32_t mode = vcpu.mode;
  // PE can be set by it, not cleared.
  STEP(write_cr0(vcpu, (vcpu.cr0 & ~(kCr0Mp | kCr0Em | kCr0Ts)) | (value & 15)));
  return finish(vcpu, insn, mode);
}

Outcome xgetbv(VcpuState& vcpu) {
  if (!(vcpu.cr4 & kCr4Osxsave)) return vcpu.raise(kUD);
  uint32_t index = static_cast<uint32_t>(vcpu.gpr[kRcx]);
  uint64_t value = vcpu.xcr0;
  if (index == 1 && has(vcpu, kCpuidXgetbv1)) {
    // The guest's extended state is live in the host's registers, so the host's answer is the guest's, but for PKRU.
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
    constexpr uint64_t kPkruState = 1 << 9;
    uint64_t in_use = (low | static_cast<uint64_t>(high) << 32) & ~kPkruState;
    if (vcpu.pkru) in_use |= kPkruState;
    value &= in_use;
  } else if (index != 0) {
    return vcpu.raise(kGP, 0);
  }
  vcpu.gpr[kRax] = static_cast<uint32_t>(value);
  vcpu.gpr[kRdx] = value >> 32;
  return Outcome::kNext;
}

Outcome xsetbv(VcpuState& vcpu, const Insn& insn) {
  if (!(vcpu.cr4 & kCr4Osxsave)) return vcpu.raise(kUD);
  uint64_t value = static_cast<uint32_t>(vcpu.gpr[kRax]) | vcpu.gpr[kRdx] << 32;
  if (vcpu.cpl != 0 || static_cast<uint32_t>(vcpu.gpr[kRcx]) != 0 || !valid_xcr0(vcpu, value)) return vcpu.raise(kGP, 0);
  vcpu.xcr0 = value;
  update_mode(vcpu);
  return jump_behind(vcpu, insn);
}

Outcome rdpkru(VcpuState& vcpu) {
  if (!(vcpu.cr4 & kCr4Pke)) return vcpu.raise(kUD);
  if (static_cast<uint32_t>(vcpu.gpr[kRcx]) != 0) return vcpu.raise(kGP, 0);
  vcpu.gpr[kRax] = vcpu.pkru;
  vcpu.gpr[kRdx] = 0;
  return Outcome::kNext;
}

Outcome wrpkru(VcpuState& vcpu, const Insn& insn) {
  if (!(vcpu.cr4 & kCr4Pke)) return vcpu.raise(kUD);
  if (static_cast<uint32_t>(vcpu.gpr[kRcx]) != 0 || static_cast<uint32_t>(vcpu.gpr[kRdx]) != 0) return vcpu.raise(kGP, 0);
  uint32_t value = static_cast<uint32_t>(vcpu.gpr[kRax]);
  if (value == vcpu.pkru) return Outcome::kNext;
  change_keys(vcpu, true, value);
  update_mode(vcpu);
  return jump_behind(vcpu, insn);
}

Outcome invlpg(VcpuState& vcpu, const Insn& insn) {
  if (register_form(insn)) return vcpu.raise(kUD);
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  uint64_t offset = effective_offset(vcpu, insn);
  bool flat = vcpu.in_64bit() && insn.segment != kFS && insn.segment != kGS;
  uint64_t linear = flat ? offset : vcpu.segment[insn.segment].base + offset;
  if (!vcpu.in_64bit()) linear = static_cast<uint32_t>(linear);
  if (!canonical(linear, vcpu.linear_bits)) return Outcome::kNext;  // a non-canonical address makes it a NOP
  flush_tlb_page(vcpu, linear);
  return jump_behind(vcpu, insn);
}

Outcome invpcid(VcpuState& vcpu, const Insn& insn) {
  if (!has(vcpu, kCpuidInvpcid) || register_form(insn)) return vcpu.raise(kUD);
  if (vcpu.cpl != 0 || vcpu.vm86()) return vcpu.raise(kGP, 0);
  uint64_t type = read_gpr(vcpu, insn.reg & 15, vcpu.in_64bit() ? 8 : 4), linear;
  uint64_t descriptor[2];
  STEP(memory_operand(vcpu, insn, 16, AccessType::kRead, linear));
  STEP(read_linear(vcpu, linear, descriptor, 16, false, insn.segment == kSS));
  uint64_t pcid = descriptor[0];
  if (type > 3 || pcid >> 12) return vcpu.raise(kGP, 0);
  if (type < 2 && pcid && !(vcpu.cr4 & kCr4Pcide)) return vcpu.raise(kGP, 0);
  if (type == 0 && !canonical(descriptor[1], supported_linear_bits(vcpu))) return vcpu.raise(kGP, 0);
  uint64_t current = vcpu.cr4 & kCr4Pcide ? vcpu.cr3 & 0xfff : 0;
  switch (type) {
    case 0:
      // One address of another space: dropping that whole space is allowed and rare.
      if (pcid == current)
        flush_tlb_page(vcpu, descriptor[1]);
      else
        flush_tlb_pcid(vcpu, static_cast<unsigned>(pcid), true);
      break;
    case 1: flush_tlb_pcid(vcpu, static_cast<unsigned>(pcid), true); break;
    case 2: flush_tlb(vcpu, false, true); break;
    default: flush_tlb(vcpu, true); break;
  }
  return jump_behind(vcpu, insn);
}

}  // namespace vireo::softkvm
