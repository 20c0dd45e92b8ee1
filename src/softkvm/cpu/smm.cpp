// SPDX-License-Identifier: Apache-2.0
// System management mode: entry through SMBASE + 0x8000 with the state saved at SMBASE + 0xfe00, and RSM. The save area is the layout KVM and
// Bochs have for CPUs with long mode (AMD64's), and the 32-bit one otherwise.
// Spec: AMD APM vol 2, 10.2 (table 10-1), 10.3; Intel SDM vol 3, 32.4 (table 32-1), 32.5.
#include <linux/kvm.h>

#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

namespace {

constexpr unsigned kAreaOffset = 0xfe00, kAreaSize = 512;
constexpr uint32_t kRevision64 = 0x20064, kRevision32 = 0x20000;  // bit 17: SMBASE may be relocated

class Area {
 public:
  template <class T>
  void put(unsigned offset, T value) {  // offset as the manuals count: from SMBASE + 0x8000
    for (unsigned i = 0; i < sizeof(T); i++) bytes_[offset - 0x7e00 + i] = static_cast<uint8_t>(static_cast<uint64_t>(value) >> i * 8);
  }
  template <class T>
  T get(unsigned offset) const {
    uint64_t value = 0;
    for (unsigned i = 0; i < sizeof(T); i++) value |= static_cast<uint64_t>(bytes_[offset - 0x7e00 + i]) << i * 8;
    return static_cast<T>(value);
  }
  uint8_t* bytes() { return bytes_; }
  void clear() {
    for (unsigned i = 0; i < kAreaSize; i++) const_cast<volatile uint8_t*>(bytes_)[i] = 0;
  }

 private:
  uint8_t bytes_[kAreaSize];
};

// Segment attributes as both layouts have them: descriptor bits 40-47 and 52-55, 12 bits in all.
uint16_t packed_access(const Segment& s) {
  return s.unusable ? 0 : static_cast<uint16_t>((s.access & 0xff) | (s.access >> 4 & 0xf00));
}
uint16_t unpacked_access(uint16_t packed) { return static_cast<uint16_t>((packed & 0xff) | (packed & 0xf00) << 4); }

void put_segment64(Area& a, unsigned at, const Segment& s) {
  a.put<uint16_t>(at, s.selector);
  a.put<uint16_t>(at + 2, packed_access(s));
  a.put<uint32_t>(at + 4, s.limit);
  a.put<uint64_t>(at + 8, s.base);
}
Segment get_segment64(const Area& a, unsigned at) {
  Segment s;
  s.selector = a.get<uint16_t>(at);
  s.access = unpacked_access(a.get<uint16_t>(at + 2));
  s.limit = a.get<uint32_t>(at + 4);
  s.base = a.get<uint64_t>(at + 8);
  s.unusable = !s.present();
  return s;
}

void save64(const VcpuState& v, Area& a) {
  for (unsigned i = 0; i < 16; i++) a.put<uint64_t>(0x7ff8 - i * 8, v.gpr[i]);
  a.put<uint64_t>(0x7f78, v.rip);
  a.put<uint32_t>(0x7f70, static_cast<uint32_t>(v.rflags()));
  a.put<uint64_t>(0x7f68, v.dr6);
  a.put<uint64_t>(0x7f60, v.dr7);
  a.put<uint64_t>(0x7f58, v.cr0);
  a.put<uint64_t>(0x7f50, v.cr3);
  a.put<uint64_t>(0x7f48, v.cr4);
  a.put<uint32_t>(0x7f00, static_cast<uint32_t>(v.msr.smbase));
  a.put<uint32_t>(0x7efc, kRevision64);
  a.put<uint64_t>(0x7ed0, v.efer);
  a.put<uint8_t>(0x7ec9, v.halted ? 1 : 0);  // auto halt restart
  put_segment64(a, 0x7e90, v.tr);
  a.put<uint32_t>(0x7e84, v.idtr.limit);
  a.put<uint64_t>(0x7e88, v.idtr.base);
  put_segment64(a, 0x7e70, v.ldtr);
  a.put<uint32_t>(0x7e64, v.gdtr.limit);
  a.put<uint64_t>(0x7e68, v.gdtr.base);
  for (unsigned i = 0; i < 6; i++) put_segment64(a, 0x7e00 + i * 16, v.segment[i]);
  a.put<uint8_t>(0x7ecb, v.cpl);
}

void put_segment32(Area& a, unsigned at, const Segment& s) {  // flags, limit, base descend
  a.put<uint32_t>(at, packed_access(s) & 0xffu ? static_cast<uint32_t>((s.access & 0xff) << 8 | (s.access & 0xf000u) << 8) : 0);
  a.put<uint32_t>(at + 4, s.limit);
  a.put<uint32_t>(at + 8, static_cast<uint32_t>(s.base));
}
Segment get_segment32(const Area& a, unsigned at, uint16_t selector) {
  Segment s;
  uint32_t flags = a.get<uint32_t>(at);
  s.selector = selector;
  s.access = static_cast<uint16_t>((flags >> 8 & 0xff) | (flags >> 8 & 0xf000));
  s.limit = a.get<uint32_t>(at + 4);
  s.base = a.get<uint32_t>(at + 8);
  s.unusable = !s.present();
  return s;
}
// Where the hidden parts lie in the 32-bit layout: ES CS SS below DS FS GS.
unsigned hidden32(unsigned which) { return which < 3 ? 0x7f84 + which * 12 : 0x7f2c + (which - 3) * 12; }

void save32(const VcpuState& v, Area& a) {
  a.put<uint32_t>(0x7ffc, static_cast<uint32_t>(v.cr0));
  a.put<uint32_t>(0x7ff8, static_cast<uint32_t>(v.cr3));
  a.put<uint32_t>(0x7ff4, static_cast<uint32_t>(v.rflags()));
  a.put<uint32_t>(0x7ff0, static_cast<uint32_t>(v.rip));
  for (unsigned i = 0; i < 8; i++) a.put<uint32_t>(0x7fd0 + i * 4, static_cast<uint32_t>(v.gpr[i]));
  a.put<uint32_t>(0x7fcc, static_cast<uint32_t>(v.dr6));
  a.put<uint32_t>(0x7fc8, static_cast<uint32_t>(v.dr7));
  a.put<uint32_t>(0x7fc4, v.tr.selector);
  a.put<uint32_t>(0x7fc0, v.ldtr.selector);
  for (unsigned i = 0; i < 6; i++) {
    a.put<uint32_t>(0x7fa8 + i * 4, v.segment[i].selector);
    put_segment32(a, hidden32(i), v.segment[i]);
  }
  a.put<uint32_t>(0x7f74, static_cast<uint32_t>(v.gdtr.base));
  a.put<uint32_t>(0x7f70, v.gdtr.limit);
  put_segment32(a, 0x7f5c, v.tr);
  a.put<uint32_t>(0x7f58, static_cast<uint32_t>(v.idtr.base));
  a.put<uint32_t>(0x7f54, v.idtr.limit);
  put_segment32(a, 0x7f78, v.ldtr);
  a.put<uint32_t>(0x7f14, static_cast<uint32_t>(v.cr4));
  a.put<uint16_t>(0x7f02, v.halted ? 1 : 0);
  a.put<uint32_t>(0x7efc, kRevision32);
  a.put<uint32_t>(0x7ef8, static_cast<uint32_t>(v.msr.smbase));
}

Outcome shutdown(VcpuState& v) {
  if (v.run) v.run->exit_reason = KVM_EXIT_SHUTDOWN;
  return Outcome::kExit;
}

bool wide_area(const VcpuState& v) { return has(v, kCpuidLongMode); }

}  // namespace

Outcome enter_smm(VcpuState& v) {
  Area area;
  area.clear();
  if (wide_area(v))
    save64(v, area);
  else
    save32(v, area);
  v.in_smm = true;
  update_mode(v);
  uint64_t at = v.msr.smbase + kAreaOffset;
  if (!write_physical(v, at, area.bytes(), kAreaSize)) return shutdown(v);
  // NMIs are blocked in SMM and let in again by an IRET in it; what was blocked before is remembered in smm_nmi_masked.
  v.smm_nmi_masked = v.nmi_masked;
  v.nmi_masked = true;
  v.msr.smi_count++;
  v.halted = false;
  v.smi_pending = false;
  v.interrupt_shadow_sti = v.interrupt_shadow_mov_ss = false;
  v.set_rflags(2);
  v.rip = 0x8000;
  v.cr0 &= ~(kCr0Pe | kCr0Em | kCr0Ts | kCr0Pg);
  v.cr4 = 0;
  v.efer = 0;
  v.linear_bits = 48;
  v.idtr = DescriptorTable{};
  v.dr7 = 0x400;
  v.cpl = 0;
  for (unsigned i = 0; i < 6; i++) {
    Segment& s = v.segment[i];
    s = Segment{};
    s.limit = 0xffffffff;
    s.access = 0x8093;
  }
  v.segment[kCS].selector = static_cast<uint16_t>(v.msr.smbase >> 4);
  v.segment[kCS].base = v.msr.smbase;
  flush_tlb(v, false);
  update_mode(v);
  return Outcome::kJump;
}

Outcome rsm(VcpuState& v) {
  if (!v.in_smm) return v.raise(kUD);
  Area area;
  if (!read_physical(v, v.msr.smbase + kAreaOffset, area.bytes(), kAreaSize)) return shutdown(v);
  const Area& a = area;
  bool wide = wide_area(v), halted;
  uint64_t cr0, cr3, cr4, efer = 0;
  if (wide) {
    cr0 = a.get<uint64_t>(0x7f58), cr3 = a.get<uint64_t>(0x7f50), cr4 = a.get<uint64_t>(0x7f48), efer = a.get<uint64_t>(0x7ed0);
  } else {
    cr0 = a.get<uint32_t>(0x7ffc), cr3 = a.get<uint32_t>(0x7ff8), cr4 = a.get<uint32_t>(0x7f14);
  }
  bool long_mode = (efer & kEferLme) && (cr0 & kCr0Pg);
  if (!valid_cr0(v, cr0) || !valid_cr4(v, cr4) || !valid_efer(v, efer) || (long_mode && !(cr4 & kCr4Pae)) ||
      (cr3 & ~(1ull << 63)) >> v.physical_bits || ((cr4 & kCr4Pcide) && !long_mode))
    return shutdown(v);
  v.in_smm = false;
  v.nmi_masked = v.smm_nmi_masked;
  v.attention = 1;  // SMIs and NMIs that waited
  v.cr0 = cr0 | kCr0Et;
  v.cr4 = cr4;
  v.cr3 = cr3;
  v.efer = (efer & ~kEferLma) | (long_mode ? kEferLma : 0);
  v.linear_bits = cr4 & kCr4La57 ? 57 : 48;
  if (wide) {
    for (unsigned i = 0; i < 16; i++) v.gpr[i] = a.get<uint64_t>(0x7ff8 - i * 8);
    v.rip = a.get<uint64_t>(0x7f78);
    v.set_rflags(a.get<uint32_t>(0x7f70));
    v.dr6 = a.get<uint32_t>(0x7f68) | 0xffff0ff0;
    v.dr7 = a.get<uint32_t>(0x7f60) | 0x400;
    v.msr.smbase = a.get<uint32_t>(0x7f00);
    halted = a.get<uint8_t>(0x7ec9) & 1;
    v.tr = get_segment64(a, 0x7e90);
    v.idtr = {a.get<uint64_t>(0x7e88), a.get<uint16_t>(0x7e84)};
    v.ldtr = get_segment64(a, 0x7e70);
    v.gdtr = {a.get<uint64_t>(0x7e68), a.get<uint16_t>(0x7e64)};
    for (unsigned i = 0; i < 6; i++) v.segment[i] = get_segment64(a, 0x7e00 + i * 16);
    v.cpl = a.get<uint8_t>(0x7ecb) & 3;
  } else {
    v.set_rflags(a.get<uint32_t>(0x7ff4));
    v.rip = a.get<uint32_t>(0x7ff0);
    for (unsigned i = 0; i < 8; i++) v.gpr[i] = a.get<uint32_t>(0x7fd0 + i * 4);
    v.dr6 = a.get<uint32_t>(0x7fcc) | 0xffff0ff0;
    v.dr7 = a.get<uint32_t>(0x7fc8) | 0x400;
    v.tr = get_segment32(a, 0x7f5c, a.get<uint16_t>(0x7fc4));
    v.ldtr = get_segment32(a, 0x7f78, a.get<uint16_t>(0x7fc0));
    for (unsigned i = 0; i < 6; i++) v.segment[i] = get_segment32(a, hidden32(i), a.get<uint16_t>(0x7fa8 + i * 4));
    v.gdtr = {a.get<uint32_t>(0x7f74), a.get<uint16_t>(0x7f70)};
    v.idtr = {a.get<uint32_t>(0x7f58), a.get<uint16_t>(0x7f54)};
    halted = a.get<uint16_t>(0x7f02) & 1;
    v.msr.smbase = a.get<uint32_t>(0x7ef8);
    v.cpl = v.vm86() ? 3 : v.protected_mode() ? static_cast<uint8_t>(v.segment[kSS].dpl()) : 0;
  }
  if ((v.cr0 & kCr0Pg) && (v.cr4 & kCr4Pae) && !long_mode) {
    if (!read_physical(v, v.cr3 & 0xffffffe0, v.pdpte, sizeof v.pdpte)) return shutdown(v);
  }
  flush_tlb(v, false);
  update_mode(v);
  if (halted) {
    v.halted = true;
    return Outcome::kHalt;
  }
  return Outcome::kJump;
}

}  // namespace vireo::softkvm
