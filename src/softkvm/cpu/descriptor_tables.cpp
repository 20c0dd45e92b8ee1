// SPDX-License-Identifier: Apache-2.0
// Instructions on descriptor tables and descriptors: LGDT LIDT SGDT SIDT LLDT LTR SLDT STR, LAR LSL VERR VERW ARPL.
// Spec: Intel SDM vol 2, the same; vol 3, 2.5 (UMIP), 5.10 (pointer validation).
#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

namespace {

// UMIP: storing system registers above CPL 0 faults.
bool umip_blocks(const VcpuState& vcpu) { return vcpu.cpl > 0 && (vcpu.cr4 & kCr4Umip); }

bool real_or_vm86(const VcpuState& vcpu) { return !vcpu.protected_mode() || vcpu.vm86(); }

void set_zf(VcpuState& vcpu, bool zf) { vcpu.flag_ah = static_cast<uint8_t>(zf ? vcpu.flag_ah | kZF : vcpu.flag_ah & ~kZF); }

bool in_table(const VcpuState& vcpu, uint16_t selector) {
  if (selector & 4) return !vcpu.ldtr.unusable && vcpu.ldtr.present() && (selector | 7u) <= vcpu.ldtr.limit;
  return (selector | 7u) <= vcpu.gdtr.limit;
}

Segment system_segment(const Descriptor& d) {
  Segment s = d.segment();
  s.unusable = false;
  return s;
}

}  // namespace

Outcome lgdt_lidt(VcpuState& vcpu, const Insn& insn, bool interrupt_table) {
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  bool wide = vcpu.in_64bit();
  unsigned size = wide ? 10 : 6;
  uint64_t linear;
  uint8_t bytes[10];
  STEP(memory_operand(vcpu, insn, size, AccessType::kRead, linear));
  STEP(read_linear(vcpu, linear, bytes, size, false, insn.segment == kSS));
  DescriptorTable table;
  table.limit = static_cast<uint16_t>(bytes[0] | bytes[1] << 8);
  for (unsigned i = 2; i < size; i++) table.base |= static_cast<uint64_t>(bytes[i]) << (i - 2) * 8;
  if (wide && !canonical(table.base, supported_linear_bits(vcpu))) return vcpu.raise(kGP, 0);
  if (!wide && insn.operand_size == 2) table.base &= 0xffffff;
  (interrupt_table ? vcpu.idtr : vcpu.gdtr) = table;
  return Outcome::kNext;
}

Outcome sgdt_sidt(VcpuState& vcpu, const Insn& insn, bool interrupt_table) {
  if (umip_blocks(vcpu)) return vcpu.raise(kGP, 0);
  const DescriptorTable& table = interrupt_table ? vcpu.idtr : vcpu.gdtr;
  unsigned size = vcpu.in_64bit() ? 10 : 6;
  uint8_t bytes[10] = {static_cast<uint8_t>(table.limit), static_cast<uint8_t>(table.limit >> 8)};
  for (unsigned i = 2; i < 10; i++) bytes[i] = static_cast<uint8_t>(table.base >> (i - 2) * 8);
  uint64_t linear;
  STEP(memory_operand(vcpu, insn, size, AccessType::kWrite, linear));
  return write_linear(vcpu, linear, bytes, size, false, insn.segment == kSS);
}

Outcome lldt(VcpuState& vcpu, const Insn& insn) {
  if (real_or_vm86(vcpu)) return vcpu.raise(kUD);
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  uint64_t value;
  STEP(read_rm(vcpu, insn, 2, value));
  uint16_t selector = static_cast<uint16_t>(value);
  if (null_selector(selector)) {
    vcpu.ldtr = Segment{};
    vcpu.ldtr.selector = selector;
    vcpu.ldtr.unusable = true;
    return Outcome::kNext;
  }
  uint32_t error = selector_error(selector);
  if (selector & 4) return vcpu.raise(kGP, error);
  Descriptor d;
  STEP(read_descriptor(vcpu, selector, kGP, d));
  if (d.system_type() != kLdtType) return vcpu.raise(kGP, error);
  if (!d.present()) return vcpu.raise(kNP, error);
  if (vcpu.long_mode_active()) {
    STEP(read_descriptor_high(vcpu, kGP, d));
    if (!canonical(d.base(), supported_linear_bits(vcpu))) return vcpu.raise(kGP, error);
  }
  vcpu.ldtr = system_segment(d);
  return Outcome::kNext;
}

Outcome ltr(VcpuState& vcpu, const Insn& insn) {
  if (real_or_vm86(vcpu)) return vcpu.raise(kUD);
  if (vcpu.cpl != 0) return vcpu.raise(kGP, 0);
  uint64_t value;
  STEP(read_rm(vcpu, insn, 2, value));
  uint16_t selector = static_cast<uint16_t>(value);
  if (null_selector(selector)) return vcpu.raise(kGP, 0);
  uint32_t error = selector_error(selector);
  if (selector & 4) return vcpu.raise(kGP, error);
  Descriptor d;
  STEP(read_descriptor(vcpu, selector, kGP, d));
  bool wide = vcpu.long_mode_active();
  if (d.system_type() != kTss32Available && (wide || d.system_type() != kTss16Available)) return vcpu.raise(kGP, error);
  if (!d.present()) return vcpu.raise(kNP, error);
  if (wide) {
    STEP(read_descriptor_high(vcpu, kGP, d));
    if (!canonical(d.base(), supported_linear_bits(vcpu))) return vcpu.raise(kGP, error);
  }
  STEP(update_linear_byte(vcpu, d.linear + 5, 2, 0));
  d.low |= 1ull << 41;  // busy
  vcpu.tr = system_segment(d);
  return Outcome::kNext;
}

Outcome sldt_str(VcpuState& vcpu, const Insn& insn, uint16_t selector) {
  if (real_or_vm86(vcpu)) return vcpu.raise(kUD);
  if (umip_blocks(vcpu)) return vcpu.raise(kGP, 0);
  if (!register_form(insn)) return write_memory_operand(vcpu, insn, 2, selector);
  write_gpr(vcpu, insn.rm & 15, insn.operand_size, selector);
  return Outcome::kNext;
}

Outcome lar_lsl(VcpuState& vcpu, const Insn& insn, bool limit) {
  if (real_or_vm86(vcpu)) return vcpu.raise(kUD);
  uint64_t value;
  STEP(read_rm(vcpu, insn, 2, value));
  uint16_t selector = static_cast<uint16_t>(value);
  if (null_selector(selector) || !in_table(vcpu, selector)) {
    set_zf(vcpu, false);
    return Outcome::kNext;
  }
  Descriptor d;
  STEP(read_descriptor(vcpu, selector, kGP, d));
  bool long_mode = vcpu.long_mode_active();
  bool valid = false;
  switch (d.system_type()) {
    case 16: valid = true; break;
    case kTss16Available: case kTss16Busy: valid = !long_mode; break;
    case kLdtType: case kTss32Available: case kTss32Busy: valid = true; break;
    case kCallGate16: case kTaskGate: valid = !limit && !long_mode; break;
    case kCallGate32: valid = !limit; break;
    default: break;
  }
  if (!d.conforming() || !d.s()) valid = valid && vcpu.cpl <= d.dpl() && (selector & 3u) <= d.dpl();
  set_zf(vcpu, valid);
  if (!valid) return Outcome::kNext;
  // LAR leaves the four limit bits undefined; CPUs give them.
  uint64_t result = limit ? d.limit() : d.low >> 32 & 0x00ffff00;
  write_gpr(vcpu, insn.reg & 15, insn.operand_size, result);
  return Outcome::kNext;
}

Outcome verr_verw(VcpuState& vcpu, const Insn& insn, bool write) {
  if (real_or_vm86(vcpu)) return vcpu.raise(kUD);
  uint64_t value;
  STEP(read_rm(vcpu, insn, 2, value));
  uint16_t selector = static_cast<uint16_t>(value);
  bool ok = false;
  if (!null_selector(selector) && in_table(vcpu, selector)) {
    Descriptor d;
    STEP(read_descriptor(vcpu, selector, kGP, d));
    bool reachable = (d.code() && d.conforming()) || (vcpu.cpl <= d.dpl() && (selector & 3u) <= d.dpl());
    ok = d.s() && reachable && (write ? d.writable_data() : d.data() || d.readable_code());
  }
  set_zf(vcpu, ok);
  return Outcome::kNext;
}

Outcome arpl(VcpuState& vcpu, const Insn& insn) {
  if (real_or_vm86(vcpu)) return vcpu.raise(kUD);
  unsigned rpl = vcpu.gpr[insn.reg & 7] & 3;
  uint64_t value, linear = 0;
  bool memory = !register_form(insn);
  if (memory) {
    STEP(memory_operand(vcpu, insn, 2, AccessType::kReadWrite, linear));
    STEP(probe_write(vcpu, linear, 2, false, insn.segment == kSS));
    value = 0;
    STEP(read_linear(vcpu, linear, &value, 2, false, insn.segment == kSS));
  } else {
    value = read_gpr(vcpu, insn.rm & 7, 2);
  }
  bool adjust = (value & 3) < rpl;
  if (adjust) {
    value = (value & ~3ull) | rpl;
    if (memory)
      STEP(write_linear(vcpu, linear, &value, 2, false, insn.segment == kSS));
    else
      write_gpr(vcpu, insn.rm & 7, 2, value);
  }
  set_zf(vcpu, adjust);
  return Outcome::kNext;
}

}  // namespace vireo::softkvm
