// SPDX-License-Identifier: Apache-2.0
// From an instruction run by name to its function: by opcode, in the order of the opcode maps (Intel SDM vol 2D, appendix A).
#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/software_interrupt.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

namespace {

constexpr unsigned kCpuidMonitorx = cpuid_bit(kWordExt1Ecx, 29);

unsigned port_size(const Insn& insn) { return !(insn.opcode & 1) ? 1 : insn.operand_size == 2 ? 2 : 4; }

// FF /3 and /5: a far pointer in memory.
Outcome far_memory(VcpuState& vcpu, const Insn& insn, bool call) {
  if (register_form(insn)) return vcpu.raise(kUD);
  unsigned size = insn.operand_size;
  // AMD has no 64-bit offset in far pointers: REX.W is ignored there (APM vol 3, CALL far).
  if (size == 8 && vcpu.vendor_is_amd) size = 4;
  uint64_t linear, offset = 0;
  uint8_t bytes[10];
  STEP(memory_operand(vcpu, insn, size + 2, AccessType::kRead, linear));
  STEP(read_linear(vcpu, linear, bytes, size + 2, false, insn.segment == kSS));
  for (unsigned i = 0; i < size; i++) offset |= static_cast<uint64_t>(bytes[i]) << i * 8;
  uint16_t selector = static_cast<uint16_t>(bytes[size] | bytes[size + 1] << 8);
  return call ? call_far(vcpu, insn, selector, offset) : jump_far(vcpu, insn, selector, offset);
}

Outcome one_byte(VcpuState& vcpu, const Insn& insn) {
  uint64_t immediate = static_cast<uint64_t>(insn.immediate);
  uint16_t dx = static_cast<uint16_t>(vcpu.gpr[kRdx]);
  switch (insn.opcode) {
    case 0x06: return push_segment(vcpu, insn, kES);
    case 0x07: return pop_segment(vcpu, insn, kES);
    case 0x0e: return push_segment(vcpu, insn, kCS);
    case 0x16: return push_segment(vcpu, insn, kSS);
    case 0x17: return pop_segment(vcpu, insn, kSS);
    case 0x1e: return push_segment(vcpu, insn, kDS);
    case 0x1f: return pop_segment(vcpu, insn, kDS);
    case 0x27: return daa(vcpu);
    case 0x2f: return das(vcpu);
    case 0x37: return aaa(vcpu);
    case 0x3f: return aas(vcpu);
    case 0x62: return bound(vcpu, insn);
    case 0x63: return arpl(vcpu, insn);
    case 0x8c: return move_from_segment(vcpu, insn);
    case 0x8e: return move_to_segment(vcpu, insn);
    case 0x90: return Outcome::kNext;  // PAUSE
    case 0x9a: return call_far(vcpu, insn, insn.immediate2, immediate);
    case 0x9c: return pushf_instruction(vcpu, insn);
    case 0x9d: return popf_instruction(vcpu, insn);
    case 0xc4: return load_far_pointer(vcpu, insn, kES);
    case 0xc5: return load_far_pointer(vcpu, insn, kDS);
    case 0xca: return return_far(vcpu, insn, immediate & 0xffff);
    case 0xcb: return return_far(vcpu, insn, 0);
    case 0xcc: return software_interrupt(vcpu, kBP, SoftwareInterrupt::kInt3, insn.length);
    case 0xcd: return software_interrupt(vcpu, static_cast<uint8_t>(immediate), SoftwareInterrupt::kIntN, insn.length);
    case 0xce: return vcpu.flag_of ? software_interrupt(vcpu, kOFv, SoftwareInterrupt::kInto, insn.length) : Outcome::kNext;
    case 0xcf: return iret(vcpu, insn);
    case 0xd4: return aam(vcpu, static_cast<uint8_t>(immediate));
    case 0xd5: return aad(vcpu, static_cast<uint8_t>(immediate));
    case 0xd6:  // SALC
      write_gpr(vcpu, kRax, 1, vcpu.flag_ah & kCF ? 0xff : 0);
      return Outcome::kNext;
    case 0xe4: case 0xe5: return in_port(vcpu, immediate & 0xff, port_size(insn));
    case 0xe6: case 0xe7: return out_port(vcpu, immediate & 0xff, port_size(insn));
    case 0xea: return jump_far(vcpu, insn, insn.immediate2, immediate);
    case 0xec: case 0xed: return in_port(vcpu, dx, port_size(insn));
    case 0xee: case 0xef: return out_port(vcpu, dx, port_size(insn));
    case 0xf1: return software_interrupt(vcpu, kDB, SoftwareInterrupt::kInt1, insn.length);
    case 0xf4: return hlt(vcpu, insn);
    case 0xfa: return cli(vcpu, insn);
    case 0xfb: return sti(vcpu, insn);
    case 0xfc: vcpu.system_flags &= ~kDF; return Outcome::kNext;
    case 0xfd: vcpu.system_flags |= kDF; return Outcome::kNext;
    case 0xff: return far_memory(vcpu, insn, (insn.modrm >> 3 & 7) == 3);
    default: return vcpu.raise(kUD);
  }
}

// 0F 00: sldt str lldt ltr verr verw.
Outcome group6(VcpuState& vcpu, const Insn& insn) {
  switch (insn.modrm >> 3 & 7) {
    case 0: return sldt_str(vcpu, insn, vcpu.ldtr.selector);
    case 1: return sldt_str(vcpu, insn, vcpu.tr.selector);
    case 2: return lldt(vcpu, insn);
    case 3: return ltr(vcpu, insn);
    case 4: return verr_verw(vcpu, insn, false);
    case 5: return verr_verw(vcpu, insn, true);
    default: return vcpu.raise(kUD);
  }
}

// 0F 01 with a register: instructions that have the modrm byte for a third opcode byte.
Outcome group7_register(VcpuState& vcpu, const Insn& insn) {
  bool prefixed = insn.opsize || insn.rep || insn.repne;
  switch (insn.modrm) {
    case 0xc1: return vmcall(vcpu, false);
    case 0xc8: return prefixed ? vcpu.raise(kUD) : monitor_mwait(vcpu, false, kCpuidMonitor);
    case 0xc9: return prefixed ? vcpu.raise(kUD) : monitor_mwait(vcpu, true, kCpuidMonitor);
    case 0xca: return prefixed ? vcpu.raise(kUD) : stac_clac(vcpu, insn, false);
    case 0xcb: return prefixed ? vcpu.raise(kUD) : stac_clac(vcpu, insn, true);
    case 0xd0: return prefixed ? vcpu.raise(kUD) : xgetbv(vcpu);
    case 0xd1: return prefixed ? vcpu.raise(kUD) : xsetbv(vcpu, insn);
    case 0xd9: return vmcall(vcpu, true);
    case 0xe8:  // SERIALIZE: the translator's order is the program's
      return prefixed || !has(vcpu, kCpuidSerialize) ? vcpu.raise(kUD) : Outcome::kNext;
    case 0xee: return prefixed ? vcpu.raise(kUD) : rdpkru(vcpu);
    case 0xef: return prefixed ? vcpu.raise(kUD) : wrpkru(vcpu, insn);
    case 0xf8: return swapgs(vcpu);
    case 0xf9: return rdtscp(vcpu);
    case 0xfa: return monitor_mwait(vcpu, false, kCpuidMonitorx);
    case 0xfb: return monitor_mwait(vcpu, true, kCpuidMonitorx);
    case 0xfd: return rdpru(vcpu);
    default: break;
  }
  switch (insn.modrm >> 3 & 7) {
    case 4: return smsw(vcpu, insn);
    case 6: return lmsw(vcpu, insn);
    default: return vcpu.raise(kUD);  // VMX, SGX, SVM and what is not in the map
  }
}

Outcome group7(VcpuState& vcpu, const Insn& insn) {
  if (register_form(insn)) return group7_register(vcpu, insn);
  switch (insn.modrm >> 3 & 7) {
    case 0: return sgdt_sidt(vcpu, insn, false);
    case 1: return sgdt_sidt(vcpu, insn, true);
    case 2: return lgdt_lidt(vcpu, insn, false);
    case 3: return lgdt_lidt(vcpu, insn, true);
    case 4: return smsw(vcpu, insn);
    case 6: return lmsw(vcpu, insn);
    case 7: return invlpg(vcpu, insn);
    default: return vcpu.raise(kUD);
  }
}

// 0F C7 with a register: rdrand rdseed rdpid.
Outcome group9(VcpuState& vcpu, const Insn& insn) {
  if (!register_form(insn)) return vcpu.raise(kUD);  // VMPTRLD and family
  unsigned reg = insn.modrm >> 3 & 7;
  if (reg == 7 && insn.rep) return rdpid(vcpu, insn);
  if (reg < 6 || insn.rep || insn.repne) return vcpu.raise(kUD);
  return random_number(vcpu, insn, reg == 7);
}

Outcome privileged_nop(VcpuState& vcpu) { return vcpu.cpl != 0 ? vcpu.raise(kGP, 0) : Outcome::kNext; }

Outcome two_byte(VcpuState& vcpu, const Insn& insn) {
  switch (insn.opcode) {
    case 0x00: return group6(vcpu, insn);
    case 0x01: return group7(vcpu, insn);
    case 0x02: return lar_lsl(vcpu, insn, false);
    case 0x03: return lar_lsl(vcpu, insn, true);
    case 0x05: return syscall(vcpu, insn);
    case 0x06: return clts(vcpu, insn);
    case 0x07: return sysret(vcpu, insn);
    case 0x08: case 0x09: return privileged_nop(vcpu);  // INVD, WBINVD, WBNOINVD: the host's caches are coherent
    case 0x20: return move_from_control(vcpu, insn);
    case 0x21: return move_from_debug(vcpu, insn);
    case 0x22: return move_to_control(vcpu, insn);
    case 0x23: return move_to_debug(vcpu, insn);
    case 0x30: return wrmsr(vcpu, insn);
    case 0x31: return rdtsc(vcpu);
    case 0x32: return rdmsr(vcpu, insn);
    case 0x33: return vcpu.raise(kGP, 0);  // RDPMC: there are no counters to name
    case 0x34: return sysenter(vcpu, insn);
    case 0x35: return sysexit(vcpu, insn);
    case 0xa0: return push_segment(vcpu, insn, kFS);
    case 0xa1: return pop_segment(vcpu, insn, kFS);
    case 0xa2: return cpuid_instruction(vcpu);
    case 0xa8: return push_segment(vcpu, insn, kGS);
    case 0xa9: return pop_segment(vcpu, insn, kGS);
    case 0xaa: return rsm(vcpu);
    case 0xae: return register_form(insn) && insn.rep && (insn.modrm >> 3 & 7) < 4 ? fs_gs_base(vcpu, insn) : vcpu.raise(kUD);
    case 0xb2: return load_far_pointer(vcpu, insn, kSS);
    case 0xb4: return load_far_pointer(vcpu, insn, kFS);
    case 0xb5: return load_far_pointer(vcpu, insn, kGS);
    case 0xc7: return group9(vcpu, insn);
    default: return vcpu.raise(kUD);  // UD0, UD1, UD2, VMREAD, VMWRITE ...
  }
}

}  // namespace

Outcome execute_system(VcpuState& vcpu, const Insn& insn) {
  if (insn.lock || insn.encoding != Encoding::kLegacy) return vcpu.raise(kUD);
  switch (insn.map) {
    case OpcodeMap::kOneByte: return one_byte(vcpu, insn);
    case OpcodeMap::k0F: return two_byte(vcpu, insn);
    case OpcodeMap::k0F38:
      if (insn.opcode == 0x82 && insn.opsize) return invpcid(vcpu, insn);
      return vcpu.raise(kUD);
    default: return vcpu.raise(kUD);
  }
}

}  // namespace vireo::softkvm
