// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/fpu_area.h"

#include "softkvm/cpu/cpuid.h"
#include "softkvm/mmu/access.h"
#include "softkvm/translate/engine.h"

namespace vireo::softkvm {
namespace {

#define STEP(expression)                                            \
  do {                                                              \
    if (Outcome o_ = (expression); o_ != Outcome::kNext) return o_; \
  } while (0)

constexpr unsigned kAreaMax = 4096;
constexpr uint64_t kSupported = 0xe7;  // x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM
constexpr uint64_t kPkru = 1 << 9;        // no host register: done by hand
constexpr uint32_t kHalved = 0x46, kHi16Zmm = 0x80;  // SSE, AVX, ZMM_Hi256: half of each is of registers that only 64-bit mode has

// The guest's area as host memory: its own bytes where they lie in one page of RAM, else a copy that commit() writes back.
struct Area {
  VcpuState& vcpu;
  uint64_t linear;
  unsigned size;
  bool direct = false;
  uint8_t* at = nullptr;
  alignas(64) uint8_t copy[kAreaMax];

  Area(VcpuState& v, uint64_t l, unsigned s) : vcpu(v), linear(l), size(s) {}
  // `read`: its present bytes matter.
  Outcome open(bool write, bool read, bool in_place = true) {
    if (in_place && !engine_of(vcpu).stepping && (linear & 0xfff) + size <= 4096) {
      Outcome o = Outcome::kNext;
      at = host_address(vcpu, linear, size, write, o);
      if (!at) return o;
      direct = true;
      return Outcome::kNext;
    }
    at = copy;
    if (write) {
      for (unsigned done = 0; done < size;) {
        unsigned n = 4096 - ((linear + done) & 0xfff);
        if (n > size - done) n = size - done;
        STEP(probe_write(vcpu, linear + done, n));
        done += n;
      }
    }
    return read ? transfer(false, 0, size) : Outcome::kNext;
  }
  Outcome commit() { return commit(0, size); }
  Outcome commit(unsigned from, unsigned to) { return direct ? Outcome::kNext : transfer(true, from, to); }

 private:
  Outcome transfer(bool write, unsigned from, unsigned to) {
    for (unsigned done = from; done < to;) {
      unsigned n = 4096 - ((linear + done) & 0xfff);
      if (n > to - done) n = to - done;
      STEP(write ? write_linear(vcpu, linear + done, at + done, n) : read_linear(vcpu, linear + done, at + done, n));
      done += n;
    }
    return Outcome::kNext;
  }
};

void clear(uint8_t* at, unsigned n) {
  uint64_t count = n;
  asm volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(0) : "memory");
}

bool stores(Mnemonic m) {
  switch (m) {
    case Mnemonic::kFxrstor:
    case Mnemonic::kXrstor:
    case Mnemonic::kXrstors:
    case Mnemonic::kFldenv:
    case Mnemonic::kFrstor: return false;
    default: return true;
  }
}

// Bytes of the area that do not depend on the components.
unsigned least_size(const Insn& insn) {
  const unsigned env = insn.operand_size == 2 ? 14 : 28;
  switch (insn.mnemonic) {
    case Mnemonic::kFxsave:
    case Mnemonic::kFxrstor: return 512;
    case Mnemonic::kFnstenv:
    case Mnemonic::kFldenv: return env;
    case Mnemonic::kFnsave:
    case Mnemonic::kFrstor: return env + 80;
    default: return 576;
  }
}

// The area's address, where its segment lets `size` bytes be accessed.
Outcome operand(VcpuState& vcpu, const Insn& insn, unsigned size, uint64_t& linear) {
  return linear_address(vcpu, static_cast<SegmentRegister>(insn.segment), effective_offset(vcpu, insn), size,
                        stores(insn.mnemonic) ? AccessType::kWrite : AccessType::kRead, linear, false);
}

Outcome fxsave(VcpuState& vcpu, const Insn& insn, uint64_t linear) {
  if (linear & 15) return vcpu.raise(kGP, 0);
  Area area(vcpu, linear, 512);
  STEP(area.open(true, true));
  if (vcpu.in_64bit()) {
    if (insn.w) asm volatile("fxsave64 (%0)" : : "r"(area.at) : "memory");
    else asm volatile("fxsave (%0)" : : "r"(area.at) : "memory");
  } else {
    // Outside of 64-bit mode XMM8 to XMM15 are not written.
    alignas(16) uint8_t whole[512];
    asm volatile("fxsave (%0)" : : "r"(whole) : "memory");
    copy_bytes(area.at, whole, 160 + 128);
  }
  clear(area.at + 6, 18);  // FOP, FIP, FDP
  return area.commit();
}

// Which bits MXCSR has is the host's: MM (bit 17) is AMD's.
bool mxcsr_reserved(uint32_t mxcsr) {
  if (!(mxcsr & 0xffff0000u)) return false;
  alignas(16) uint8_t image[512];
  asm volatile("fxsave (%0)" : : "r"(image) : "memory");
  uint32_t mask;
  copy_bytes(&mask, image + 28, 4);
  return mxcsr & ~mask;
}

Outcome fxrstor(VcpuState& vcpu, const Insn& insn, uint64_t linear) {
  if (linear & 15) return vcpu.raise(kGP, 0);
  Area area(vcpu, linear, 512);
  STEP(area.open(false, true));
  alignas(16) uint8_t image[512];
  if (!vcpu.in_64bit()) {
    asm volatile("fxsave (%0)" : : "r"(image) : "memory");
    copy_bytes(image, area.at, 160 + 128);
  } else {
    copy_bytes(image, area.at, 512);
  }
  uint32_t mxcsr;
  copy_bytes(&mxcsr, image + 24, 4);
  if (mxcsr_reserved(mxcsr)) return vcpu.raise(kGP, 0);
  if (insn.w) asm volatile("fxrstor64 (%0)" : : "r"(image) : "memory");
  else asm volatile("fxrstor (%0)" : : "r"(image) : "memory");
  return Outcome::kNext;
}

struct Header {
  uint64_t xstate, xcomp, reserved[6];
};

// Bytes of the standard format that a component set reaches to.
unsigned standard_size(const VcpuState& vcpu, uint64_t components) { return vcpu.cpuid->xsave_size(components | 1); }
unsigned compacted_size(const VcpuState& vcpu, uint64_t components) { return vcpu.cpuid->xsave_compacted_size(components); }

// Where component `i` lies in an area whose XCOMP_BV is `format`, if it is a compacted one.
unsigned component_offset(const VcpuState& vcpu, bool compact, uint64_t format, unsigned i) {
  const auto& component = vcpu.cpuid->xsave_component[i];
  return compact ? compacted_size(vcpu, format & ((2ull << i) - 1)) - component.size : component.offset;
}

constexpr unsigned kXmm = 160, kUpperXmm = 288;  // where XMM0 and XMM8 lie

struct Part {
  unsigned at, size;
};
// Where XMM8 to XMM15, the upper parts of YMM and ZMM8 to 15, or ZMM16 to ZMM31 lie. Outside of 64-bit mode they are neither written nor loaded
// (SDM vol 1, 13.5.2, 13.5.3, 13.5.5); the area is as long, and XINUSE is what it is. An AMD EPYC of 2025 sets XSTATE_BV[7] there too.
Part upper_part(const VcpuState& vcpu, bool compact, uint64_t format, unsigned i) {
  if (i == 1) return {kUpperXmm, 128};
  const unsigned at = component_offset(vcpu, compact, format, i), size = vcpu.cpuid->xsave_component[i].size;
  return i == 7 ? Part{at, size} : Part{at + size / 2, size / 2};
}

// Behind the host's instruction, which left bit 9 of XSTATE_BV (and clear in XCOMP_BV) as it was. In its initial configuration, zero, the
// component is not stored but by XSAVE (SDM vol 1, 13.7 to 13.11).
void save_pkru(VcpuState& vcpu, const Insn& insn, uint8_t* area, bool compact, uint64_t components) {
  uint64_t bv, value = vcpu.pkru;
  copy_bytes(&bv, area + 512, 8);
  bv = value ? bv | kPkru : bv & ~kPkru;
  copy_bytes(area + 512, &bv, 8);
  if (compact) {
    uint64_t format;
    copy_bytes(&format, area + 520, 8);
    format |= kPkru;
    copy_bytes(area + 520, &format, 8);
  }
  if (value || insn.mnemonic == Mnemonic::kXsave) copy_bytes(area + component_offset(vcpu, compact, components, 9), &value, 8);
}

Outcome xsave(VcpuState& vcpu, const Insn& insn, uint64_t linear) {
  if (linear & 63) return vcpu.raise(kGP, 0);
  bool compact = insn.mnemonic == Mnemonic::kXsavec || insn.mnemonic == Mnemonic::kXsaves;
  uint64_t asked = (vcpu.gpr[kRdx] << 32) | (vcpu.gpr[kRax] & 0xffffffffull);
  uint64_t components = asked & vcpu.xcr0;  // IA32_XSS has no components here
  unsigned size = compact ? compacted_size(vcpu, components) : standard_size(vcpu, components);
  if (size > kAreaMax) return vcpu.raise(kGP, 0);
  STEP(operand(vcpu, insn, size, linear));
  Area area(vcpu, linear, size);
  STEP(area.open(true, true, vcpu.in_64bit()));
  uint32_t low = static_cast<uint32_t>(components & kSupported), high = 0;
  if (compact) {
    if (insn.w) asm volatile("xsavec64 (%0)" : : "r"(area.at), "a"(low), "d"(high) : "memory");
    else asm volatile("xsavec (%0)" : : "r"(area.at), "a"(low), "d"(high) : "memory");
  } else {
    if (insn.w) asm volatile("xsave64 (%0)" : : "r"(area.at), "a"(low), "d"(high) : "memory");
    else asm volatile("xsave (%0)" : : "r"(area.at), "a"(low), "d"(high) : "memory");
  }
  if (components & kPkru) save_pkru(vcpu, insn, area.at, compact, components);
  if (components & 1) clear(area.at + 6, 18);
  if (vcpu.in_64bit()) return area.commit();
  // A copy was saved to: what the instruction does not write may be another CPU's meanwhile.
  if (components & 7) STEP(area.commit(0, components & 2 ? kUpperXmm : kXmm));
  STEP(area.commit(512, 512 + sizeof(Header)));
  for (unsigned i : {2, 5, 6, 9}) {
    if (!(components >> i & 1)) continue;
    const unsigned at = component_offset(vcpu, compact, components, i), stored = vcpu.cpuid->xsave_component[i].size;
    STEP(area.commit(at, at + (kHalved >> i & 1 ? stored / 2 : stored)));
  }
  return Outcome::kNext;
}

Outcome xrstor(VcpuState& vcpu, const Insn& insn, uint64_t linear) {
  if (linear & 63) return vcpu.raise(kGP, 0);
  uint64_t asked = (vcpu.gpr[kRdx] << 32) | (vcpu.gpr[kRax] & 0xffffffffull);
  uint64_t components = asked & vcpu.xcr0;
  Header header;
  STEP(read_linear(vcpu, linear + 512, &header, sizeof header));
  bool compact = header.xcomp >> 63;
  bool supervisor = insn.mnemonic == Mnemonic::kXrstors;
  if (supervisor && !compact) return vcpu.raise(kGP, 0);
  if (header.xstate & ~vcpu.xcr0) return vcpu.raise(kGP, 0);
  const uint64_t format = header.xcomp & ~(1ull << 63);
  if (compact) {
    if (format & ~vcpu.xcr0 || header.xstate & ~format) return vcpu.raise(kGP, 0);
    for (uint64_t r : header.reserved)
      if (r) return vcpu.raise(kGP, 0);
  } else if (header.xcomp || header.reserved[0]) {
    return vcpu.raise(kGP, 0);
  }
  unsigned size = compact ? compacted_size(vcpu, format) : standard_size(vcpu, components);
  if (size > kAreaMax) return vcpu.raise(kGP, 0);
  STEP(operand(vcpu, insn, size, linear));
  // On a copy: what has been checked must be what the host's instruction sees.
  Area area(vcpu, linear, size);
  STEP(area.open(false, true));
  alignas(64) uint8_t image[kAreaMax];
  copy_bytes(image, area.at, size);
  uint32_t pkru = 0;
  if (header.xstate & components & kPkru) copy_bytes(&pkru, image + component_offset(vcpu, compact, format, 9), 4);
  const Header host{header.xstate & ~kPkru, header.xcomp & ~kPkru, {}};  // the host may not have it
  copy_bytes(image + 512, &host, sizeof host);
  uint32_t mxcsr;
  copy_bytes(&mxcsr, image + 24, 4);
  bool loads_mxcsr = compact ? components & 2 && header.xstate & 2 : components & 6;
  if (loads_mxcsr && mxcsr_reserved(mxcsr)) return vcpu.raise(kGP, 0);
  uint32_t low = static_cast<uint32_t>(components & kSupported), high = 0;
  // Outside of 64-bit mode the upper registers stay: those of components that are loaded go into the image, those of components that get their
  // initial configuration are loaded once more, with zeroes for the others.
  alignas(64) uint8_t present[kAreaMax];
  uint32_t again = 0;
  if (!vcpu.in_64bit()) {
    low &= ~kHi16Zmm;
    clear(present + 512, sizeof(Header));
    asm volatile("xsave64 (%0)" : : "r"(present), "a"(low & kHalved), "d"(high) : "memory");
    for (unsigned i : {1, 2, 6}) {
      if (!(low >> i & 1)) continue;
      const Part upper = upper_part(vcpu, false, 0, i);
      if (header.xstate >> i & 1) {
        copy_bytes(image + upper_part(vcpu, compact, format, i).at, present + upper.at, upper.size);
      } else {
        clear(present + upper.at - upper.size, upper.size);
        again |= 1u << i;
      }
    }
  }
  if (insn.w) asm volatile("xrstor64 (%0)" : : "r"(image), "a"(low), "d"(high) : "memory");
  else asm volatile("xrstor (%0)" : : "r"(image), "a"(low), "d"(high) : "memory");
  if (again) {
    asm volatile("stmxcsr (%0)" : : "r"(present + 24) : "memory");
    asm volatile("xrstor64 (%0)" : : "r"(present), "a"(again), "d"(high) : "memory");
  }
  if (components & kPkru && pkru != vcpu.pkru) change_keys(vcpu, true, pkru);
  return Outcome::kNext;
}

// The host's x87 status word is the guest's.
bool x87_exception_open() {
  uint16_t status;
  asm volatile("fnstsw %0" : "=a"(status));
  return status & 0x80;
}

// The environment's pointer fields: behind the tag word.
Outcome x87_environment(VcpuState& vcpu, const Insn& insn, uint64_t linear) {
  bool small = insn.operand_size == 2;
  unsigned env = small ? 14 : 28, size = env;
  bool whole = insn.mnemonic == Mnemonic::kFnsave || insn.mnemonic == Mnemonic::kFrstor;
  if (whole) size += 80;
  bool save = insn.mnemonic == Mnemonic::kFnsave || insn.mnemonic == Mnemonic::kFnstenv;
  Area area(vcpu, linear, size);
  STEP(area.open(save, !save));
  switch (insn.mnemonic) {
    case Mnemonic::kFnstenv:
      if (small) asm volatile(".byte 0x66; fnstenv (%0)" : : "r"(area.at) : "memory");
      else asm volatile("fnstenv (%0)" : : "r"(area.at) : "memory");
      break;
    case Mnemonic::kFldenv:
      if (small) asm volatile(".byte 0x66; fldenv (%0)" : : "r"(area.at) : "memory");
      else asm volatile("fldenv (%0)" : : "r"(area.at) : "memory");
      break;
    case Mnemonic::kFnsave:
      if (small) asm volatile(".byte 0x66; fnsave (%0)" : : "r"(area.at) : "memory");
      else asm volatile("fnsave (%0)" : : "r"(area.at) : "memory");
      break;
    default:
      if (small) asm volatile(".byte 0x66; frstor (%0)" : : "r"(area.at) : "memory");
      else asm volatile("frstor (%0)" : : "r"(area.at) : "memory");
  }
  if (save) {
    clear(area.at + (small ? 6 : 12), small ? 8 : 16);
    return area.commit();
  }
  return Outcome::kNext;
}

}  // namespace

Outcome execute_fpu_area(VcpuState& vcpu, const Insn& insn) {
  switch (insn.mnemonic) {
    case Mnemonic::kFxsave:
    case Mnemonic::kFxrstor:
      if (vcpu.cr0 & kCr0Em) return vcpu.raise(kNM);
      if (vcpu.cr0 & kCr0Ts) return vcpu.raise(kNM);
      break;
    case Mnemonic::kFnstenv:
    case Mnemonic::kFldenv:
    case Mnemonic::kFnsave:
    case Mnemonic::kFrstor:
      if (vcpu.cr0 & (kCr0Em | kCr0Ts)) return vcpu.raise(kNM);
      // The two that load wait for an exception that is open (SDM vol 2, FLDENV, FRSTOR), as the host's would do here.
      if ((insn.mnemonic == Mnemonic::kFldenv || insn.mnemonic == Mnemonic::kFrstor) && x87_exception_open()) return vcpu.raise(kMFv);
      break;
    case Mnemonic::kXsaves:
    case Mnemonic::kXrstors:
      if (!(vcpu.cr4 & kCr4Osxsave)) return vcpu.raise(kUD);
      if (vcpu.cpl) return vcpu.raise(kGP, 0);
      if (vcpu.cr0 & kCr0Ts) return vcpu.raise(kNM);
      break;
    default:
      if (!(vcpu.cr4 & kCr4Osxsave)) return vcpu.raise(kUD);
      if (vcpu.cr0 & kCr0Ts) return vcpu.raise(kNM);
  }
  uint64_t linear;
  STEP(operand(vcpu, insn, least_size(insn), linear));
  switch (insn.mnemonic) {
    case Mnemonic::kFxsave: return fxsave(vcpu, insn, linear);
    case Mnemonic::kFxrstor: return fxrstor(vcpu, insn, linear);
    case Mnemonic::kXsave:
    case Mnemonic::kXsaveopt:
    case Mnemonic::kXsavec:
    case Mnemonic::kXsaves: return xsave(vcpu, insn, linear);
    case Mnemonic::kXrstor:
    case Mnemonic::kXrstors: return xrstor(vcpu, insn, linear);
    case Mnemonic::kFnstenv:
    case Mnemonic::kFldenv:
    case Mnemonic::kFnsave:
    case Mnemonic::kFrstor: return x87_environment(vcpu, insn, linear);
    default: return vcpu.raise(kUD);
  }
}

}  // namespace vireo::softkvm
