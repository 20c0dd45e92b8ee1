// SPDX-License-Identifier: Apache-2.0
// The state after power-on and after INIT. Spec: Intel SDM vol 3, table 10-1 (9-1 in older editions); the caches of the segment registers: 10.1.4.
#include <initializer_list>

#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/msr_values.h"
#include "softkvm/cpu/system.h"

namespace vireo::softkvm {

namespace {

Segment real_segment(uint16_t selector, uint64_t base, uint16_t access) {
  Segment s;
  s.base = base;
  s.limit = 0xffff;
  s.selector = selector;
  s.access = access;
  return s;
}

void reset_both(VcpuState& v) {
  for (uint64_t& r : v.gpr) r = 0;
  // Family, model, stepping: what CPUID leaf 1 says, or those of a P6.
  const CpuidEntry* signature = v.cpuid ? v.cpuid->find(1, 0) : nullptr;
  v.gpr[kRdx] = signature ? signature->eax : 0x600;
  v.rip = 0xfff0;
  v.set_rflags(2);
  v.segment[kCS] = real_segment(0xf000, 0xffff0000, 0x9b);
  for (SegmentRegister r : {kES, kSS, kDS, kFS, kGS}) v.segment[r] = real_segment(0, 0, 0x93);
  v.ldtr = real_segment(0, 0, 0x82);
  v.tr = real_segment(0, 0, 0x8b);
  v.gdtr.base = v.idtr.base = 0;
  v.gdtr.limit = v.idtr.limit = 0xffff;
  v.cr2 = v.cr3 = v.cr4 = v.efer = 0;
  v.linear_bits = 48;
  for (uint64_t& d : v.dr) d = 0;
  v.dr6 = 0xffff0ff0;
  v.dr7 = 0x400;
  for (uint64_t& p : v.pdpte) p = 0;
  v.cpl = 0;
  v.fault = PendingException{};
  v.injected = PendingException{};
  v.interrupt_shadow_sti = v.interrupt_shadow_mov_ss = false;
  v.nmi_pending = v.held_breakpoints = 0;
  v.nmi_masked = v.smi_pending = v.in_smm = v.halted = v.single_step_pending = false;
  v.open_exit = VcpuState::OpenExit::kNone;
}

}  // namespace

void reset_cpu(VcpuState& v) {
  reset_both(v);
  v.cr0 = kCr0Cd | kCr0Nw | kCr0Et;
  v.xcr0 = 1;
  v.pkru = v.pkrs = 0;
  Msrs& m = v.msr;
  uint64_t platform_info = m.platform_info, arch_capabilities = m.arch_capabilities, mcg_cap = m.mcg_cap;
  uint64_t microcode = m.microcode, tsc_offset = m.tsc_offset;
  auto* words = reinterpret_cast<volatile uint64_t*>(&m);
  for (unsigned i = 0; i < sizeof(Msrs) / 8; i++) words[i] = 0;
  // What the machine is made of, and the running TSC: user space's to set.
  m.platform_info = platform_info;
  m.arch_capabilities = arch_capabilities;
  m.mcg_cap = mcg_cap;
  m.microcode = microcode;
  m.tsc_offset = tsc_offset;
  m.pat = 0x0007040600070406ull;
  m.misc_enable = kMiscEnableReset;
  m.smbase = 0x30000;
  m.poll_control = 1;
  for (unsigned i = 0; i < 32; i++) m.mce_banks[i * 4] = ~0ull;
  if (mcg_cap & 1 << 8) m.mcg_ctl = ~0ull;
  update_mode(v);
}

void init_cpu(VcpuState& v) {
  uint64_t cache_bits = v.cr0 & (kCr0Cd | kCr0Nw);
  reset_both(v);
  v.cr0 = cache_bits | kCr0Et;
  // XCR0, PKRU, MSRs but EFER, and the TSC survive INIT; the areas in memory that the guest has given us do not, as with the kernel: who starts
  // the CPU anew may have another use for them.
  v.msr.system_time = v.msr.steal_time = v.msr.pv_eoi = v.msr.async_pf = v.msr.async_pf_int = 0;
  flush_tlb(v, false);
  update_mode(v);
}

}  // namespace vireo::softkvm
